// Raw: a JSON value as it stands in a document, and a strict reader of such values (RFC 8259) that
// copies nothing but unescaped strings. For looking into the parts of a body that peek.h found,
// where position and exact bytes matter more than a tree.
//
// Plain functions over views: the bytes must outlive them. Any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/result.h"

namespace sluice::json {

enum class Type : uint8_t { kNull, kBool, kNumber, kString, kArray, kObject };
std::string_view to_string(Type type);

// Deeper nesting than this is refused everywhere in this room.
inline constexpr int kMaxDepth = 128;
// So are numbers of more characters: Python reads no whole one of over 4300.
inline constexpr size_t kMaxNumber = 1000;

struct Raw {
  ByteView text;  // without white space around it: "\"gpt\"", "[1, 2]"
  Type type = Type::kNull;

  bool is(Type t) const { return type == t; }
};

struct RawField {
  std::string name;  // unescaped
  Raw value;
};

// An object's fields in their order.
struct RawObject {
  std::vector<RawField> fields;
  // The value under `name`; of several the last, as JavaScript and Python read it.
  const Raw* find(std::string_view name) const;
};

// `text` as exactly one value, checked to its depths, UTF-8 included. Errors are kInvalidArgument
// with the byte's offset.
Result<Raw> read_value(ByteView text);

// Whether `text` is exactly one value, `depth` containers down in its document: the same check, but
// for UTF-8.
Result<void> check(ByteView text, int depth);

// One level of a container; every child is checked to its depths, but for its UTF-8. The value must
// be of that type. Offsets in errors count from the value's first byte.
Result<std::vector<Raw>> elements(const Raw& array);
Result<RawObject> fields(const Raw& object);

// The element at `index` of `array`, or nothing if there are fewer; what follows it is not read.
Result<std::optional<Raw>> element_at(const Raw& array, size_t index);

// The value that starts at `text`'s first byte that is no white space; `rest` is what follows it.
Result<Raw> first_value(ByteView text, ByteView* rest);
// The same for a value that is `depth` containers down in its document. If it is an object, its
// members called `names` go to `members`, of several the last; what is absent stays as it is.
Result<Raw> first_value(ByteView text, ByteView* rest, int depth,
                        std::span<const std::string_view> names, std::span<Raw> members);

// Calls visit() with each string that is a value in `document`, in their order, and with where it
// stands: the names that lead there as they are written, "*" for an element of an array, as in
// "/messages/*/content". False, behind those before it, where the document is malformed; UTF-8 is
// not checked.
using VisitString = std::function<void(std::string_view path, const Raw& string)>;
bool visit_strings(ByteView document, const VisitString& visit);

// A string's content. An unpaired surrogate escape becomes U+FFFD: JavaScript writes such escapes
// for text that was cut in mid-character. Or it is kept, in the three bytes that a character of its
// number would have, for who puts the text together again.
enum class Halves : uint8_t { kReplaced, kKept };
Result<std::string> to_text(const Raw& string, Halves halves = Halves::kReplaced);

// A number without fraction or exponent that fits.
std::optional<int64_t> to_integer(const Raw& number);
std::optional<double> to_double(const Raw& number);
std::optional<float> to_float(const Raw& number);
std::optional<bool> to_bool(const Raw& value);

}  // namespace sluice::json
