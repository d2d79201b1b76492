// A reader for JSON (RFC 8259), as much of it as a bundle's manifest needs: no writer, no comments.
// Damaged text raises json::Error with the place; nesting is limited, so that no text can exhaust
// the stack.
#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace json {

class Error : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

class Value {
  public:
    enum class Kind { null, boolean, number, text, list, object };

    Value() = default;
    explicit Value(bool truth) : kind_(Kind::boolean), number_(truth) {}
    explicit Value(double number) : kind_(Kind::number), number_(number) {}
    explicit Value(std::string text) : kind_(Kind::text), text_(std::move(text)) {}
    explicit Value(std::vector<Value> items) : kind_(Kind::list), items_(std::move(items)) {}
    explicit Value(std::map<std::string, Value> fields)
        : kind_(Kind::object), fields_(std::move(fields)) {}

    bool is_null() const { return kind_ == Kind::null; }
    bool is_object() const { return kind_ == Kind::object; }
    double number() const { return require(Kind::number, "a number").number_; }
    const std::string &text() const { return require(Kind::text, "a string").text_; }
    const std::vector<Value> &items() const { return require(Kind::list, "a list").items_; }

    // A whole number that fits an int; 1.5 and 1e99 are errors, not something near.
    int integer() const {
        const double value = number();
        if (value != std::floor(value) || std::fabs(value) > 2147483647.0) {
            throw Error("a whole number was expected");
        }
        return static_cast<int>(value);
    }

    // A field of an object; null where it is absent, as the format's optional fields are.
    const Value &operator[](const std::string &name) const {
        static const Value absent;
        const auto &fields = require(Kind::object, "an object").fields_;
        const auto found = fields.find(name);
        return found == fields.end() ? absent : found->second;
    }

    const Value &at(const std::string &name) const {
        const Value &value = (*this)[name];
        if (value.is_null()) {
            throw Error("the field " + name + " is missing");
        }
        return value;
    }

  private:
    const Value &require(Kind kind, const char *name) const {
        if (kind_ != kind) {
            throw Error(std::string(name) + " was expected");
        }
        return *this;
    }

    Kind kind_ = Kind::null;
    double number_ = 0;
    std::string text_;
    std::vector<Value> items_;
    std::map<std::string, Value> fields_;
};

class Reader {
  public:
    explicit Reader(const std::string &text) : text_(text) {}

    Value read() {
        Value value = any(0);
        space();
        if (at_ != text_.size()) {
            fail("something follows the document");
        }
        return value;
    }

  private:
    static constexpr int deepest = 64;

    [[noreturn]] void fail(const std::string &what) const {
        throw Error(what + ", at byte " + std::to_string(at_));
    }

    char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

    void space() {
        while (at_ < text_.size() && std::string(" \t\r\n").find(text_[at_]) != std::string::npos) {
            ++at_;
        }
    }

    bool take(char wanted) {
        space();
        if (peek() != wanted) {
            return false;
        }
        ++at_;
        return true;
    }

    void expect(char wanted) {
        if (!take(wanted)) {
            fail(std::string("'") + wanted + "' was expected");
        }
    }

    bool word(const std::string &wanted) {
        if (text_.compare(at_, wanted.size(), wanted) != 0) {
            return false;
        }
        at_ += wanted.size();
        return true;
    }

    Value any(int depth) {
        if (depth > deepest) {
            fail("it is nested too deeply");
        }
        space();
        switch (peek()) {
        case '{':
            return object(depth);
        case '[':
            return list(depth);
        case '"':
            return Value(string());
        default:
            break;
        }
        if (word("true")) {
            return Value(true);
        }
        if (word("false")) {
            return Value(false);
        }
        if (word("null")) {
            return Value();
        }
        return Value(number());
    }

    Value object(int depth) {
        std::map<std::string, Value> fields;
        expect('{');
        if (take('}')) {
            return Value(std::move(fields));
        }
        do {
            space();
            std::string name = string();
            expect(':');
            if (!fields.emplace(std::move(name), any(depth + 1)).second) {
                fail("a field stands there twice");
            }
        } while (take(','));
        expect('}');
        return Value(std::move(fields));
    }

    Value list(int depth) {
        std::vector<Value> items;
        expect('[');
        if (take(']')) {
            return Value(std::move(items));
        }
        do {
            items.push_back(any(depth + 1));
        } while (take(','));
        expect(']');
        return Value(std::move(items));
    }

    double number() {
        const auto start = at_;
        while (std::string("+-.0123456789eE").find(peek()) != std::string::npos && peek() != '\0') {
            ++at_;
        }
        const std::string digits = text_.substr(start, at_ - start);
        std::size_t used = 0;
        double value = 0;
        try {
            value = std::stod(digits, &used);
        } catch (const std::exception &) {
            used = 0;
        }
        if (digits.empty() || used != digits.size()) {
            at_ = start;
            fail("a value was expected");
        }
        return value;
    }

    std::string string() {
        std::string made;
        if (peek() != '"') {
            fail("a string was expected");
        }
        ++at_;
        while (true) {
            if (at_ >= text_.size()) {
                fail("a string does not end");
            }
            const char letter = text_[at_++];
            if (letter == '"') {
                return made;
            }
            if (static_cast<unsigned char>(letter) < 0x20) {
                fail("a string holds a control character");
            }
            made += letter == '\\' ? escaped() : std::string(1, letter);
        }
    }

    std::string escaped() {
        static const std::map<char, char> simple{{'"', '"'},  {'\\', '\\'}, {'/', '/'},
                                                 {'b', '\b'}, {'f', '\f'},  {'n', '\n'},
                                                 {'r', '\r'}, {'t', '\t'}};
        const char letter = peek();
        ++at_;
        if (const auto found = simple.find(letter); found != simple.end()) {
            return std::string(1, found->second);
        }
        if (letter != 'u') {
            fail("an unknown escape");
        }
        std::uint32_t code = unit();
        if (code >= 0xD800 && code < 0xDC00 && word("\\u")) { // the first half of a pair
            const std::uint32_t low = unit();
            if (low < 0xDC00 || low > 0xDFFF) {
                fail("half of a surrogate pair");
            }
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        } else if (code >= 0xD800 && code < 0xE000) {
            fail("half of a surrogate pair");
        }
        return utf8(code);
    }

    std::uint32_t unit() {
        std::uint32_t code = 0;
        for (int digit = 0; digit < 4; ++digit) {
            const auto value = std::string("0123456789abcdef").find(static_cast<char>(
                peek() >= 'A' && peek() <= 'F' ? peek() - 'A' + 'a' : peek()));
            if (value == std::string::npos) {
                fail("four hexadecimal digits were expected");
            }
            code = code << 4 | static_cast<std::uint32_t>(value);
            ++at_;
        }
        return code;
    }

    static std::string utf8(std::uint32_t code) {
        const auto tail = [code](int shift) {
            return static_cast<char>(0x80 | (code >> shift & 0x3F));
        };
        if (code < 0x80) {
            return {static_cast<char>(code)};
        }
        if (code < 0x800) {
            return {static_cast<char>(0xC0 | code >> 6), tail(0)};
        }
        if (code < 0x10000) {
            return {static_cast<char>(0xE0 | code >> 12), tail(6), tail(0)};
        }
        return {static_cast<char>(0xF0 | code >> 18), tail(12), tail(6), tail(0)};
    }

    const std::string &text_;
    std::size_t at_ = 0;
};

inline Value parse(const std::string &text) { return Reader(text).read(); }

} // namespace json
