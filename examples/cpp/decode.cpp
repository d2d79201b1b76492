// Steps 1 to 3 of the preprocessing rules: decode at a sufficient scale, upright, 8-bit RGB.

#include <algorithm>
#include <cctype>
#include <cmath>
#include <fstream>
#include <iterator>
#include <memory>
#include <string_view>
#include <utility>

#include "image.hpp"

#ifdef EDGETL_JPEG
#include <csetjmp>
#include <cstdio> // before jpeglib.h, which needs it

#include <jpeglib.h>

#include <jerror.h>
#endif

namespace edgetl {
namespace {

constexpr double most_pixels = 178'956'970; // that are decoded into memory
using Bytes = std::vector<std::uint8_t>;

void check_size(double width, double height) {
    if (width < 1 || height < 1 || width * height > most_pixels) {
        throw Error("it has no pixels, or more than 179 million");
    }
}

// A whole number of a PPM's header, behind white space and comments; moves `at` past it.
int header_number(const Bytes &data, std::size_t &at) {
    while (at < data.size() && (std::isspace(data[at]) || data[at] == '#')) {
        if (data[at] == '#') {
            while (at < data.size() && data[at] != '\n') {
                ++at;
            }
        } else {
            ++at;
        }
    }
    int value = -1;
    for (; at < data.size() && std::isdigit(data[at]) && value < 100'000'000; ++at) {
        value = std::max(value, 0) * 10 + (data[at] - '0');
    }
    return value;
}

Image decode_ppm(const Bytes &data) {
    std::size_t at = 2;
    const int width = header_number(data, at);
    const int height = header_number(data, at);
    const int most = header_number(data, at);
    ++at; // the one white space that ends the header
    check_size(width, height);
    if (most != 255) {
        throw Error("only PPM files of 8 bits (maximum 255) are read");
    }
    const auto size = 3 * static_cast<std::size_t>(width) * static_cast<std::size_t>(height);
    if (at > data.size() || data.size() - at < size) {
        throw Error("the file is cut off");
    }
    const auto begin = data.begin() + static_cast<std::ptrdiff_t>(at);
    return {width, height, Bytes(begin, begin + static_cast<std::ptrdiff_t>(size))};
}

#ifdef EDGETL_JPEG

// Smallest width and height that a scaled decode may have, of an image that lies upright.
void wanted(int width, int height, const Input &input, int &least_width, int &least_height) {
    least_width = input.width;
    least_height = input.height;
    if (input.fit == Fit::crop) { // nearbyint rounds halves to even, as Python's round does
        least_width = static_cast<int>(std::nearbyint(input.width / input.crop));
        least_height = static_cast<int>(std::nearbyint(input.height / input.crop));
    } else if (input.fit == Fit::pad) {
        inside(width, height, input, least_width, least_height);
    }
}

// The orientation 1…8 that an EXIF segment states; 0 where it states none.
int exif_orientation(const std::uint8_t *data, std::size_t size) {
    const bool little = size >= 8 && data[0] == 'I';
    const auto number = [&](std::size_t at, int bytes) -> std::size_t {
        std::size_t value = 0;
        for (int index = 0; index < bytes; ++index) {
            const int shift = 8 * (little ? index : bytes - 1 - index);
            value |= static_cast<std::size_t>(data[at + static_cast<std::size_t>(index)]) << shift;
        }
        return value;
    };
    if (size < 8 || number(2, 2) != 42) {
        return 0;
    }
    const std::size_t folder = number(4, 4);
    if (folder > size - 2) {
        return 0;
    }
    const std::size_t count = number(folder, 2);
    for (std::size_t index = 0; index < count; ++index) {
        const std::size_t entry = folder + 2 + 12 * index;
        if (entry + 12 > size) {
            return 0;
        }
        if (number(entry, 2) == 0x0112 && number(entry + 2, 2) == 3) { // Orientation, a SHORT
            return static_cast<int>(number(entry + 8, 2));
        }
    }
    return 0;
}

// EXIF first, then XMP, as Pillow does.
int orientation(const jpeg_decompress_struct &reader) {
    using namespace std::string_view_literals;
    int from_xmp = 0;
    for (const auto *marker = reader.marker_list; marker; marker = marker->next) {
        const std::string_view text(reinterpret_cast<const char *>(marker->data),
                                    marker->data_length);
        if (text.substr(0, 6) == "Exif\0\0"sv) {
            if (const int found = exif_orientation(marker->data + 6, marker->data_length - 6U)) {
                return found;
            }
        } else if (text.substr(0, 29) == "http://ns.adobe.com/xap/1.0/\0"sv) {
            const auto at = text.find("tiff:Orientation");
            const auto value = at == text.npos ? at : text.find_first_not_of("=\">", at + 16);
            if (value != text.npos && std::isdigit(static_cast<unsigned char>(text[value]))) {
                from_xmp = text[value] - '0';
            }
        }
    }
    return from_xmp;
}

// Turn an image as its orientation says; 5 to 8 swap width and height.
Image upright(Image image, int how) {
    if (how < 2 || how > 8) {
        return image;
    }
    const int right = image.width - 1, bottom = image.height - 1;
    Image made{how < 5 ? image.width : image.height, how < 5 ? image.height : image.width,
               Bytes(image.rgb.size())};
    std::uint8_t *target = made.rgb.data();
    for (int y = 0; y < made.height; ++y) {
        for (int x = 0; x < made.width; ++x) {
            int from_x = how < 5 ? x : y, from_y = how < 5 ? y : x;
            if (how == 2 || how == 3 || how == 7 || how == 8) {
                from_x = right - from_x;
            }
            if (how == 3 || how == 4 || how == 6 || how == 7) {
                from_y = bottom - from_y;
            }
            const auto at = static_cast<std::size_t>(from_y) * static_cast<std::size_t>(image.width);
            target = std::copy_n(&image.rgb[3 * (at + static_cast<std::size_t>(from_x))], 3, target);
        }
    }
    return made;
}

// libjpeg calls back on errors and must not be returned to. The jump skips no destructor, since what
// has one is made before `setjmp`; and it loses no change, since the image lies on the heap.
struct Failure {
    jpeg_error_mgr base;
    std::jmp_buf back;
    char message[JMSG_LENGTH_MAX];
};

void on_error(j_common_ptr info) {
    auto *failure = reinterpret_cast<Failure *>(info->err);
    info->err->format_message(info, failure->message);
    std::longjmp(failure->back, 1);
}

// Of warnings, only the end of the data inside the picture is an error: libjpeg would go on in grey.
void on_message(j_common_ptr info, int level) {
    if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF) {
        on_error(info);
    }
}

Image decode_jpeg(const Bytes &data, const Input &input) {
    const auto made = std::make_unique<Image>();
    Image &image = *made;
    Failure failure{};
    jpeg_decompress_struct reader{};
    reader.err = jpeg_std_error(&failure.base);
    failure.base.error_exit = on_error;
    failure.base.emit_message = on_message;
    if (setjmp(failure.back)) {
        jpeg_destroy_decompress(&reader);
        throw Error(failure.message);
    }
    jpeg_create_decompress(&reader);
    jpeg_mem_src(&reader, data.data(), data.size());
    jpeg_save_markers(&reader, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&reader, TRUE);
    if (reader.num_components != 1 && reader.num_components != 3) {
        std::snprintf(failure.message, sizeof failure.message, "CMYK is not read here");
        std::longjmp(failure.back, 1);
    }
    const int turn = orientation(reader);
    int width = static_cast<int>(reader.image_width);
    int height = static_cast<int>(reader.image_height);
    if (turn >= 5) { // it lies on its side in the file
        std::swap(width, height);
    }
    int least_width = 0, least_height = 0;
    wanted(width, height, input, least_width, least_height);
    reader.scale_num = reader.scale_denom = 1;
    for (const unsigned scale : {2U, 4U, 8U}) {
        if (std::min(width / least_width, height / least_height) >= static_cast<int>(scale)) {
            reader.scale_denom = scale;
        }
    }
    reader.out_color_space = JCS_RGB;
    jpeg_calc_output_dimensions(&reader);
    image.width = static_cast<int>(reader.output_width);
    image.height = static_cast<int>(reader.output_height);
    if (static_cast<double>(image.width) * image.height > most_pixels) {
        std::snprintf(failure.message, sizeof failure.message, "it has more than 179 million pixels");
        std::longjmp(failure.back, 1);
    }
    const auto stride = 3 * static_cast<std::size_t>(image.width);
    image.rgb.resize(stride * static_cast<std::size_t>(image.height));
    jpeg_start_decompress(&reader);
    while (reader.output_scanline < reader.output_height) {
        JSAMPROW row = &image.rgb[stride * reader.output_scanline];
        jpeg_read_scanlines(&reader, &row, 1);
    }
    jpeg_destroy_decompress(&reader);
    return upright(std::move(image), turn);
}

#else

Image decode_jpeg(const Bytes &, const Input &) {
    throw Error("this program was built without libjpeg; convert the image to PPM");
}

#endif

} // namespace

std::vector<std::uint8_t> read_bytes(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        throw Error("cannot open " + path);
    }
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

Image decode(const std::string &path, const Input &input) {
    const Bytes data = read_bytes(path);
    try {
        if (data.size() > 3 && data[0] == 0xFF && data[1] == 0xD8) {
            return decode_jpeg(data, input);
        }
        if (data.size() > 3 && data[0] == 'P' && data[1] == '6') {
            return decode_ppm(data);
        }
        throw Error("neither a JPEG nor a binary PPM (P6)");
    } catch (const Error &error) {
        throw Error("cannot read image " + path + ": " + error.what());
    }
}

} // namespace edgetl
