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

struct Preprocess {
    int size = 224; // pixels a side of the square that the network reads
    Fit fit = Fit::crop;
};

// 8-bit RGB, row by row, without gaps: 3 × width × height bytes.
struct Image {
    int width = 0;
    int height = 0;
    std::vector<std::uint8_t> rgb;
};

// All bytes of a file.
std::vector<std::uint8_t> read_bytes(const std::string &path);

// `crop`, `pad` or `squash`.
Fit fit_of(const std::string &name);

// Steps 1 to 3: a JPEG (where this program was built with libjpeg) or a binary PPM (P6, 8 bits).
// A JPEG is decoded at the smallest scale that the preprocessing can do with, and turned upright.
Image decode(const std::string &path, const Preprocess &spec);

// Step 4: resize to (size, size).
Image fitted(const Image &image, const Preprocess &spec);

// All four steps.
inline Image pixels(const std::string &path, const Preprocess &spec) {
    return fitted(decode(path, spec), spec);
}

} // namespace edgetl
