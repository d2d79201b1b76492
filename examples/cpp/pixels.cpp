// Write the pixels that the network would read: pixels SIZE crop|pad|squash IMAGE... > pixels.rgb
//
// Raw RGB, SIZE × SIZE × 3 bytes an image. For comparing this preprocessing with edgetl's own.

#include <cstdio>
#include <exception>
#include <string>

#include "image.hpp"

int main(int argc, char **argv) {
    if (argc < 4) {
        std::fprintf(stderr, "usage: %s SIZE crop|pad|squash IMAGE... > pixels.rgb\n", argv[0]);
        return 2;
    }
    try {
        const edgetl::Preprocess spec{std::stoi(argv[1]), edgetl::fit_of(argv[2])};
        if (spec.size < 1 || spec.size > 4096) {
            throw edgetl::Error("SIZE is 1 to 4096");
        }
        for (int index = 3; index < argc; ++index) {
            const edgetl::Image image = edgetl::pixels(argv[index], spec);
            std::fwrite(image.rgb.data(), 1, image.rgb.size(), stdout);
        }
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
