// Classify images with an unpacked bundle, by ONNX Runtime alone:
//
//     edgetl unpack parts.edgetl parts
//     classify parts [--candidate NAME] IMAGE...
//
// One line an image: the path, the most probable label and its probability, between tabs.
// Unpack with edgetl: `unpack` checks the bundle's hash and structure, which this program does not.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include <onnxruntime_cxx_api.h>

#include "image.hpp"
#include "json.hpp"
#include "manifest.hpp"

namespace {

using edgetl::Error;

// What the manifest says, as far as this program needs it.
struct Model {
    std::string file;      // the candidate's ONNX file
    std::string precision; // fp32 or int8
    float temperature = 1; // probabilities are softmax(logits / temperature)
    edgetl::Input input;
    std::vector<std::string> labels;
};

// The named candidate, or the first of ONNX Runtime in FP32; one that ships, either way.
const json::Value &candidate_of(const json::Value &manifest, const std::string &name) {
    for (const json::Value &candidate : manifest.at("candidates").items()) {
        const bool wanted = name.empty() ? candidate.at("precision").text() == "fp32"
                                         : candidate.at("name").text() == name;
        const bool ships = candidate["rejected"].is_null();
        if (wanted && ships && candidate.at("engine").text() == "onnxruntime") {
            return candidate;
        }
    }
    throw Error("the bundle has no candidate of ONNX Runtime " +
                (name.empty() ? std::string("in fp32") : "named " + name));
}

Model model_of(const std::string &folder, const std::string &name) {
    const json::Value manifest = edgetl::manifest_of(folder);
    const json::Value &task = manifest.at("task");
    if (task.at("type").text() != "classification") {
        throw Error("the bundle's task is " + task.at("type").text() +
                    "; this program knows classification");
    }
    const json::Value &candidate = candidate_of(manifest, name);
    Model model;
    model.file = folder + "/" + candidate.at("artifacts").items().at(0).text();
    model.precision = candidate.at("precision").text();
    const json::Value &settings = candidate["settings"];
    if (settings.is_object() && !settings["temperature"].is_null()) {
        model.temperature = static_cast<float>(settings["temperature"].number());
    }
    model.input = edgetl::input_of(manifest);
    for (const json::Value &label : task.at("labels").items()) {
        model.labels.push_back(label.text());
    }
    return model;
}

Ort::SessionOptions options_for(const Model &model) {
    Ort::SessionOptions options;
    options.AddConfigEntry("session.load_model_format", "ONNX");
    if (model.precision == "int8") { // docs/bundle.md says why this is a must
        options.AddConfigEntry("optimization.disable_specified_optimizers",
                               "WeightBiasQuantization");
    }
    return options;
}

// Logits of one image: uint8 (1, height, width, 3) in, float32 (1, classes) out.
std::vector<float> logits_of(Ort::Session &session, edgetl::Image &image, std::size_t classes) {
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    Ort::AllocatorWithDefaultOptions allocator;
    const auto input = session.GetInputNameAllocated(0, allocator);
    const auto output = session.GetOutputNameAllocated(0, allocator);
    const char *inputs[] = {input.get()}, *outputs[] = {output.get()};
    const std::int64_t shape[] = {1, image.height, image.width, 3};
    const auto tensor = Ort::Value::CreateTensor<std::uint8_t>(memory, image.rgb.data(),
                                                               image.rgb.size(), shape, 4);
    const auto results = session.Run(Ort::RunOptions{nullptr}, inputs, &tensor, 1, outputs, 1);
    if (results[0].GetTensorTypeAndShapeInfo().GetElementCount() != classes) {
        throw Error("the model does not answer one number for each label");
    }
    const float *first = results[0].GetTensorData<float>();
    return {first, first + classes};
}

// softmax(logits / temperature), by way of the largest, so that nothing overflows.
std::vector<float> probabilities(std::vector<float> logits, float temperature) {
    const float largest = *std::max_element(logits.begin(), logits.end());
    float sum = 0;
    for (float &value : logits) {
        if (!std::isfinite(value)) {
            throw Error("the model answers NaN or infinity");
        }
        value = std::exp((value - largest) / temperature);
        sum += value;
    }
    for (float &value : logits) {
        value /= sum;
    }
    return logits;
}

int run(const std::string &folder, const std::string &name, const std::vector<std::string> &paths) {
    const Model model = model_of(folder, name);
    Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "edgetl");
    Ort::Session session(env, model.file.c_str(), options_for(model));
    int unread = 0;
    for (const std::string &path : paths) {
        try {
            edgetl::Image image = edgetl::pixels(path, model.input);
            const auto shares = probabilities(logits_of(session, image, model.labels.size()),
                                              model.temperature);
            const auto best = std::max_element(shares.begin(), shares.end());
            const auto index = static_cast<std::size_t>(best - shares.begin());
            std::printf("%s\t%s\t%.6f\n", path.c_str(), model.labels[index].c_str(),
                        static_cast<double>(*best));
        } catch (const Error &error) { // this image; the others are tried all the same
            std::fprintf(stderr, "%s\n", error.what());
            ++unread;
        }
    }
    return unread ? 1 : 0;
}

} // namespace

int main(int argc, char **argv) {
    const std::vector<std::string> words(argv + 1, argv + argc);
    const bool named = words.size() > 2 && words[1] == "--candidate";
    const std::size_t first = named ? 3 : 1;
    if (words.size() <= first) {
        std::fprintf(stderr, "usage: %s FOLDER [--candidate NAME] IMAGE...\n", argv[0]);
        return 2;
    }
    try {
        const auto start = words.begin() + static_cast<std::ptrdiff_t>(first);
        return run(words[0], named ? words[2] : "", {start, words.end()});
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
