// Write the pixels that the network would read: pixels FOLDER IMAGE... > pixels.rgb
//
// FOLDER is an unpacked bundle. Raw bytes, height × width × 3 an image. For comparing this
// preprocessing with edgetl's own.

#include <cstdio>
#include <exception>

#include "image.hpp"
#include "manifest.hpp"

int main(int argc, char **argv) {
    if (argc < 3) {
        std::fprintf(stderr, "usage: %s FOLDER IMAGE... > pixels.rgb\n", argv[0]);
        return 2;
    }
    try {
        const edgetl::Input input = edgetl::input_of(edgetl::manifest_of(argv[1]));
        for (int index = 2; index < argc; ++index) {
            const edgetl::Image image = edgetl::pixels(argv[index], input);
            std::fwrite(image.rgb.data(), 1, image.rgb.size(), stdout);
        }
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
