// Step 4 of the preprocessing rules: fit an image into a square as Pillow's antialiased bilinear
// filter does, to the last bit.
//
// The filter is a triangle. Enlarging, it spans two pixels of the source; reducing, it grows with
// the scale, so that every pixel of the source counts (which is what "antialiased" means; OpenCV's
// INTER_LINEAR and most GPU resizers do not do it, and give other pixels and so other answers).
// Columns are resized first, then rows; between the two, values are rounded to 8 bits. Weights are
// whole numbers, 2^22 standing for 1.

#include <algorithm>
#include <cmath>

#include "image.hpp"

namespace edgetl {
namespace {

constexpr int precision = 32 - 8 - 2; // bits behind the point: a sum of 8-bit products fits an int
constexpr double crop_share = 224.0 / 256.0;
constexpr std::uint8_t padding[3] = {124, 116, 104};

// Single precision, since Pillow takes its box so: a double would move the last bit.
struct Box {
    float left, top, right, bottom;
};

// What one pixel of the result takes from a line of the source: weights of the pixels from `first`.
struct Span {
    int first = 0;
    std::vector<std::int32_t> weights;
};

std::vector<Span> spans(int source, float from, float to, int target) {
    const double scale = static_cast<double>(to - from) / target;
    const double reach = std::max(scale, 1.0); // half the width of the triangle
    std::vector<Span> made(static_cast<std::size_t>(target));
    for (int index = 0; index < target; ++index) {
        const double centre = from + (index + 0.5) * scale;
        const int first = std::max(0, static_cast<int>(centre - reach + 0.5));
        const int last = std::min(source, static_cast<int>(centre + reach + 0.5)); // exclusive
        std::vector<double> shares;
        double sum = 0;
        for (int at = first; at < last; ++at) {
            const double distance = std::fabs((at - centre + 0.5) * (1.0 / reach));
            shares.push_back(distance < 1 ? 1 - distance : 0);
            sum += shares.back();
        }
        Span &span = made[static_cast<std::size_t>(index)];
        span.first = first;
        for (const double share : shares) { // none is negative: half up is round to nearest
            const double whole = (sum != 0 ? share / sum : share) * (1 << precision);
            span.weights.push_back(static_cast<std::int32_t>(0.5 + whole));
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

Image resized(const Image &image, int width, int height, const Box &box) {
    const auto columns = spans(image.width, box.left, box.right, width);
    const auto rows = spans(image.height, box.top, box.bottom, height);
    const int top = rows.front().first; // rows of the source that any row of the result needs
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

// The whole image with its aspect kept, centred on the mean colour.
Image padded(const Image &image, int size) {
    const double scale = static_cast<double>(size) / std::max(image.width, image.height);
    // nearbyint rounds halves to even, as Python's round does.
    const int width = std::max(1, static_cast<int>(std::nearbyint(image.width * scale)));
    const int height = std::max(1, static_cast<int>(std::nearbyint(image.height * scale)));
    const Box all{0, 0, static_cast<float>(image.width), static_cast<float>(image.height)};
    const Image inner = resized(image, width, height, all);

    const auto side = static_cast<std::size_t>(size);
    Image made{size, size, std::vector<std::uint8_t>(3 * side * side)};
    for (std::size_t at = 0; at < made.rgb.size(); ++at) {
        made.rgb[at] = padding[at % 3];
    }
    const int left = (size - width) / 2, top = (size - height) / 2;
    for (int y = 0; y < height; ++y) {
        std::copy_n(&inner.rgb[3 * static_cast<std::size_t>(y) * static_cast<std::size_t>(width)],
                    3 * static_cast<std::size_t>(width),
                    &made.rgb[3 * (static_cast<std::size_t>(top + y) * side +
                                   static_cast<std::size_t>(left))]);
    }
    return made;
}

} // namespace

Image fitted(const Image &image, const Preprocess &spec) {
    if (spec.fit == Fit::pad) {
        return padded(image, spec.size);
    }
    Box box{0, 0, static_cast<float>(image.width), static_cast<float>(image.height)};
    if (spec.fit == Fit::crop) { // the central square, of 224/256 of the shorter side
        const double side = std::min(image.width, image.height) * crop_share;
        const double left = (image.width - side) / 2, top = (image.height - side) / 2;
        box = {static_cast<float>(left), static_cast<float>(top), static_cast<float>(left + side),
               static_cast<float>(top + side)};
    }
    return resized(image, spec.size, spec.size, box);
}

} // namespace edgetl
