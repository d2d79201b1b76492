// What every program here reads of manifest.json: the version of the bundle, and its input.
#pragma once

#include <string>

#include "image.hpp"
#include "json.hpp"

namespace edgetl {

// The manifest of an unpacked bundle; Error for one that this code does not know how to read.
inline json::Value manifest_of(const std::string &folder) {
    const auto bytes = read_bytes(folder + "/manifest.json");
    json::Value manifest = json::parse(std::string(bytes.begin(), bytes.end()));
    const std::string &version = manifest.at("edgetl_bundle").text();
    if (version != "1.0-rc") { // a release candidate is read by its own version only
        throw Error("the bundle is of version " + version + "; this program reads 1.0-rc");
    }
    if (!manifest["needs"].is_null() && !manifest["needs"].items().empty()) {
        throw Error("the bundle needs " + manifest["needs"].items()[0].text() +
                    ", which this program does not know");
    }
    return manifest;
}

namespace detail {

// The place of a word in a list; fields that are absent have the first.
template <std::size_t N>
int choice(const json::Value &value, const std::string &field, const char *const (&words)[N]) {
    for (std::size_t index = 0; index < N; ++index) {
        if (value[field].is_null() || value[field].text() == words[index]) {
            return static_cast<int>(index);
        }
    }
    throw Error("the bundle's " + field + " is " + value[field].text() +
                ", which this program does not know");
}

inline int side(const json::Value &value, const std::string &field) {
    const int pixels = value[field].is_null() ? 224 : value[field].integer();
    if (pixels < 1 || pixels > 8192) {
        throw Error("the bundle's " + field + " is out of range");
    }
    return pixels;
}

} // namespace detail

inline Input input_of(const json::Value &manifest) {
    const json::Value &stated = manifest.at("input");
    detail::choice(stated, "type", {"image"});
    // Rules 2 differ in grey samples of more than 8 bits, which nothing here reads.
    if (!stated["rules"].is_null() && stated["rules"].integer() > 2) {
        throw Error("the bundle has newer preprocessing rules; this program knows 1 and 2");
    }
    Input input;
    input.width = detail::side(stated, "width");
    input.height = detail::side(stated, "height");
    input.fit = static_cast<Fit>(detail::choice(stated, "fit", {"crop", "pad", "squash"}));
    input.filter =
        static_cast<Filter>(detail::choice(stated, "interpolation", {"bilinear", "bicubic"}));
    input.order = static_cast<Order>(detail::choice(stated, "order", {"rgb", "bgr"}));
    if (!stated["crop"].is_null()) {
        input.crop = stated["crop"].number();
    }
    if (!(input.crop > 0 && input.crop <= 1)) {
        throw Error("the bundle's crop is out of range");
    }
    return input;
}

} // namespace edgetl
