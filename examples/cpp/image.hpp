// From an image file to the pixels that a bundle's model files read, by preprocessing rules 1.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace edgetl {

class Error : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

enum class Fit { crop, pad, squash };
enum class Filter { bilinear, bicubic };
enum class Order { rgb, bgr };

// The manifest's `input`: how an image becomes what the network reads.
struct Input {
    int width = 224, height = 224; // pixels
    Fit fit = Fit::crop;
    double crop = 224.0 / 256.0; // share of the largest central box that fit `crop` keeps
    Filter filter = Filter::bilinear;
    Order order = Order::rgb;
};

// 8-bit RGB, row by row, without gaps: 3 × width × height bytes.
struct Image {
    int width = 0;
    int height = 0;
    std::vector<std::uint8_t> rgb;
};

// All bytes of a file.
std::vector<std::uint8_t> read_bytes(const std::string &path);

// The largest width and height of an image's aspect that fit into the input.
void inside(int width, int height, const Input &input, int &inner_width, int &inner_height);

// Steps 1 to 3, for a JPEG (where this program was built with libjpeg) or a binary PPM (P6, 8 bits).
// A JPEG is decoded at the smallest scale that the preprocessing can do with, and turned upright.
Image decode(const std::string &path, const Input &input);

// Steps 4 and 5: to the input's size and order of colours.
Image fitted(const Image &image, const Input &input);

// All steps.
inline Image pixels(const std::string &path, const Input &input) {
    return fitted(decode(path, input), input);
}

} // namespace edgetl
