// Steps 4 and 5 of the preprocessing rules: fit an image into the input as Pillow's antialiased
// filters do, to the last bit.
//
// The bilinear filter is a triangle. Enlarging, it spans two pixels of the source; reducing, it
// grows with the scale, so that every pixel of the source counts (which is what "antialiased"
// means; OpenCV's INTER_LINEAR and many resizers of GPUs do without, and give other pixels and so
// other answers). The bicubic one spans four. Widths are resized first, then heights; between the
// two, values are rounded to 8 bits. Weights are whole numbers, 2^22 standing for 1.
//
// Pillow 13 resizes heights first where an image shrinks more than twice as many pixels in height as
// in width. Some of its values then differ by 1 of 255, and by a few more in the bicubic filter.

#include <algorithm>
#include <cmath>
#include <utility>

#include "image.hpp"

namespace edgetl {
namespace {

constexpr int precision = 32 - 8 - 2; // bits behind the point: a sum of 8-bit products fits an int
constexpr std::uint8_t padding[3] = {124, 116, 104};

// Single precision, since Pillow takes its box so: a double would move the last bit.
struct Box {
    float left, top, right, bottom;
};

// The filter at a distance from its centre, in units of the source's pixels where it enlarges.
double weight(Filter filter, double distance) {
    const double x = std::fabs(distance);
    if (filter == Filter::bilinear) {
        return x < 1 ? 1 - x : 0;
    }
    constexpr double a = -0.5; // Catmull-Rom's cubic
    if (x < 1) {
        return ((a + 2) * x - (a + 3)) * x * x + 1;
    }
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

// What one pixel of the result takes from a line of the source: weights of the pixels from `first`.
struct Span {
    int first = 0;
    std::vector<std::int32_t> weights;
};

std::vector<Span> spans(int source, float from, float to, int target, Filter filter) {
    const double scale = static_cast<double>(to - from) / target;
    const double stretch = std::max(scale, 1.0); // of the filter, where it reduces
    const double reach = stretch * (filter == Filter::bilinear ? 1 : 2);
    std::vector<Span> made(static_cast<std::size_t>(target));
    for (int index = 0; index < target; ++index) {
        const double centre = from + (index + 0.5) * scale;
        const int first = std::max(0, static_cast<int>(centre - reach + 0.5));
        const int last = std::min(source, static_cast<int>(centre + reach + 0.5)); // exclusive
        std::vector<double> shares;
        double sum = 0;
        for (int at = first; at < last; ++at) {
            shares.push_back(weight(filter, (at - centre + 0.5) * (1.0 / stretch)));
            sum += shares.back();
        }
        Span &span = made[static_cast<std::size_t>(index)];
        span.first = first;
        for (const double share : shares) { // to the nearest whole number
            const double whole = (sum != 0 ? share / sum : share) * (1 << precision);
            span.weights.push_back(static_cast<std::int32_t>(whole < 0 ? whole - 0.5 : whole + 0.5));
        }
    }
    return made;
}

// The weighted sum of one channel: pixels lie `step` bytes apart.
std::uint8_t mixed(const std::uint8_t *source, std::size_t step, const Span &span) {
    std::int32_t sum = 1 << (precision - 1); // one half, so that the shift rounds
    for (const std::int32_t weight : span.weights) {
        sum += *source * weight;
        source += step;
    }
    return static_cast<std::uint8_t>(std::clamp(sum >> precision, 0, 255));
}

Image resized(const Image &image, int width, int height, const Box &box, Filter filter) {
    const auto columns = spans(image.width, box.left, box.right, width, filter);
    const auto rows = spans(image.height, box.top, box.bottom, height, filter);
    const int top = rows.front().first; // of the source's rows, those that any of the result needs
    const int bottom = rows.back().first + static_cast<int>(rows.back().weights.size());
    const auto stride = 3 * static_cast<std::size_t>(image.width);
    const auto line = 3 * static_cast<std::size_t>(width);

    std::vector<std::uint8_t> narrow(line * static_cast<std::size_t>(bottom - top));
    for (int y = top; y < bottom; ++y) {
        const std::uint8_t *source = &image.rgb[stride * static_cast<std::size_t>(y)];
        std::uint8_t *target = &narrow[line * static_cast<std::size_t>(y - top)];
        for (const Span &span : columns) {
            for (int channel = 0; channel < 3; ++channel) {
                *target++ = mixed(source + 3 * span.first + channel, 3, span);
            }
        }
    }
    Image made{width, height, std::vector<std::uint8_t>(line * static_cast<std::size_t>(height))};
    std::uint8_t *target = made.rgb.data();
    for (const Span &span : rows) {
        const std::uint8_t *source = &narrow[line * static_cast<std::size_t>(span.first - top)];
        for (std::size_t at = 0; at < line; ++at) {
            *target++ = mixed(source + at, line, span);
        }
    }
    return made;
}

Box whole(const Image &image) {
    return {0, 0, static_cast<float>(image.width), static_cast<float>(image.height)};
}

// The share `crop` of the largest central box that has the input's aspect.
Box central(const Image &image, const Input &input) {
    const double width = image.width, height = image.height;
    const double wide = std::min(width, height * input.width / input.height) * input.crop;
    const double high = std::min(height, width * input.height / input.width) * input.crop;
    const double left = (width - wide) / 2, top = (height - high) / 2;
    return {static_cast<float>(left), static_cast<float>(top), static_cast<float>(left + wide),
            static_cast<float>(top + high)};
}

// The whole image with its aspect kept, centred on the mean colour.
Image padded(const Image &image, const Input &input) {
    int width = 0, height = 0;
    inside(image.width, image.height, input, width, height);
    const Image inner = resized(image, width, height, whole(image), input.filter);
    const auto line = 3 * static_cast<std::size_t>(width);
    const auto stride = 3 * static_cast<std::size_t>(input.width);
    Image made{input.width, input.height, {}};
    made.rgb.resize(stride * static_cast<std::size_t>(input.height));
    for (std::size_t at = 0; at < made.rgb.size(); ++at) {
        made.rgb[at] = padding[at % 3];
    }
    const auto left = 3 * static_cast<std::size_t>((input.width - width) / 2);
    const auto top = static_cast<std::size_t>((input.height - height) / 2);
    for (std::size_t y = 0; y < static_cast<std::size_t>(height); ++y) {
        std::copy_n(&inner.rgb[line * y], line, &made.rgb[stride * (top + y) + left]);
    }
    return made;
}

} // namespace

void inside(int width, int height, const Input &input, int &inner_width, int &inner_height) {
    const double scale = std::min(static_cast<double>(input.width) / width,
                                  static_cast<double>(input.height) / height);
    inner_width = std::max(1, static_cast<int>(std::nearbyint(width * scale)));
    inner_height = std::max(1, static_cast<int>(std::nearbyint(height * scale)));
}

Image fitted(const Image &image, const Input &input) {
    Image made = input.fit == Fit::pad
                     ? padded(image, input)
                     : resized(image, input.width, input.height,
                               input.fit == Fit::crop ? central(image, input) : whole(image),
                               input.filter);
    if (input.order == Order::bgr) {
        for (std::size_t at = 0; at < made.rgb.size(); at += 3) {
            std::swap(made.rgb[at], made.rgb[at + 2]);
        }
    }
    return made;
}

} // namespace edgetl
