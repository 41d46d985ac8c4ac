#include "sluice/json/peek.h"

#include <simdjson.h>

#include <algorithm>
#include <string>

namespace sluice::json {
namespace {

namespace ondemand = simdjson::ondemand;

// A parser that has seen a larger document is thrown away after it: its index takes four bytes for
// each of the document's.
constexpr size_t kKeptCapacity = 1 << 20;

Error bad(std::string_view what, size_t offset) {
  return Error(ErrorCode::kInvalidArgument,
               "JSON: " + std::string(what) + " at byte " + std::to_string(offset),
               ErrorOrigin::kCaller);
}

ByteView trimmed(ByteView text) {
  const size_t end = text.find_last_not_of(" \n\r\t");
  return text.substr(0, end == ByteView::npos ? 0 : end + 1);
}

// Walks one document. Offsets are counted from the parsed buffer, which holds the same bytes as the
// document.
class Walk {
 public:
  Walk(ByteView document, const char* parsed) : document_(document), parsed_(parsed) {}

  Result<std::vector<std::optional<Peeked>>> run(ondemand::document& root,
                                                 std::span<const std::string_view> names) {
    std::vector<std::optional<Peeked>> found(names.size());
    ondemand::object object;
    if (const auto error = root.get_object().get(object)) return failure(root, error);
    for (auto next : object) {
      ondemand::field field;
      if (const auto error = std::move(next).get(field)) return failure(root, error);
      const auto name = names_index(field, names);
      if (!name) continue;
      if (found[*name]) {
        return bad("field '" + std::string(names[*name]) + "' stands here twice,",
                   offset(field.key().raw()) - 1);
      }
      SLUICE_TRY(found[*name], peek(root, field));
    }
    const char* behind = nullptr;
    if (root.current_location().get(behind) != simdjson::OUT_OF_BOUNDS) {
      return bad("more than one value", offset(behind));
    }
    return found;
  }

 private:
  size_t offset(const char* in_parsed) const { return static_cast<size_t>(in_parsed - parsed_); }

  std::optional<size_t> names_index(ondemand::field& field,
                                    std::span<const std::string_view> names) const {
    const char* const start = field.key().raw();
    ByteView raw = document_.substr(offset(start));
    // The name ends at the first quote that is not escaped; simdjson has seen that there is one.
    size_t size = 0;
    while (raw[size] != '"') size += raw[size] == '\\' ? 2 : 1;
    raw = raw.substr(0, size);
    std::string unescaped;
    if (raw.find('\\') != ByteView::npos) {
      const auto text = to_text(Raw{document_.substr(offset(start) - 1, size + 2), Type::kString});
      if (!text) return std::nullopt;  // a name that cannot be read is none of ours
      unescaped = *text;
      raw = unescaped;
    }
    const auto it = std::find(names.begin(), names.end(), raw);
    if (it == names.end()) return std::nullopt;
    return static_cast<size_t>(it - names.begin());
  }

  Result<Peeked> peek(ondemand::document& root, ondemand::field& field) const {
    Peeked out;
    out.name_offset = offset(field.key().raw()) - 1;
    ondemand::value value = field.value();
    ondemand::json_type type;
    if (const auto error = value.type().get(type)) return failure(root, error);
    if (type == ondemand::json_type::array) return peek_array(root, value, out);
    if (type == ondemand::json_type::object) {
      ondemand::object object;
      std::string_view text;
      if (const auto error = value.get_object().get(object)) return failure(root, error);
      if (const auto error = object.raw_json().get(text)) return failure(root, error);
      text = trimmed(text);
      out.value_offset = offset(text.data());
      out.value = Raw{document_.substr(out.value_offset, text.size()), Type::kObject};
      if (out.value.text.back() != '}') return bad("an object without its end", out.value_offset);
      return out;
    }
    const ByteView token = trimmed(value.raw_json_token());
    out.value_offset = offset(token.data());
    const auto scalar = read_value(document_.substr(out.value_offset, token.size()));
    if (!scalar) return bad("a malformed value", out.value_offset);
    out.value = *scalar;
    return out;
  }

  Result<Peeked> peek_array(ondemand::document& root, ondemand::value& value, Peeked out) const {
    ondemand::array array;
    const char* start = nullptr;
    if (const auto error = root.current_location().get(start)) return failure(root, error);
    if (const auto error = value.get_array().get(array)) return failure(root, error);
    for (auto element : array) {
      if (const auto error = element.error()) return failure(root, error);
      ++out.count;
    }
    const char* end = nullptr;  // the token behind the array
    if (const auto error = root.current_location().get(end)) return failure(root, error);
    out.value_offset = offset(start);
    const ByteView text =
        trimmed(document_.substr(out.value_offset, static_cast<size_t>(end - start)));
    if (text.size() < 2 || text.front() != '[' || text.back() != ']') {
      return bad("an array without its end", out.value_offset);
    }
    out.value = Raw{text, Type::kArray};
    return out;
  }

  Error failure(ondemand::document& root, simdjson::error_code error) const {
    const char* location = nullptr;
    const bool known = root.current_location().get(location) == simdjson::SUCCESS &&
                       location >= parsed_ && location <= parsed_ + document_.size();
    if (error == simdjson::INCORRECT_TYPE) return bad("the document is not an object", 0);
    return bad("malformed", known ? offset(location) : document_.size());
  }

  ByteView document_;
  const char* parsed_;
};

}  // namespace

struct Peeker::State {
  std::unique_ptr<ondemand::parser> parser = std::make_unique<ondemand::parser>();
  Bytes copy;
};

Peeker::Peeker() : state_(std::make_unique<State>()) {}
Peeker::~Peeker() = default;

Result<std::vector<std::optional<Peeked>>> Peeker::fields(const Bytes& document,
                                                          std::span<const std::string_view> names) {
  const Bytes* parsed = &document;
  if (document.capacity() - document.size() < simdjson::SIMDJSON_PADDING) {
    state_->copy.reserve(document.size() + simdjson::SIMDJSON_PADDING);
    state_->copy = document;
    parsed = &state_->copy;
  }
  auto result = [&]() -> Result<std::vector<std::optional<Peeked>>> {
    ondemand::document root;
    // Finds every token, and on the way checks UTF-8 and that strings end.
    const auto error = state_->parser->iterate(*parsed, parsed->capacity()).get(root);
    if (error == simdjson::UTF8_ERROR) return bad("the text is not UTF-8", 0);
    if (error == simdjson::EMPTY) return bad("the document is empty,", 0);
    if (error != simdjson::SUCCESS) return bad("malformed", document.size());
    return Walk(document, parsed->data()).run(root, names);
  }();
  if (state_->parser->capacity() > kKeptCapacity) {
    state_->parser = std::make_unique<ondemand::parser>();
    state_->copy = Bytes();
  }
  return result;
}

}  // namespace sluice::json
