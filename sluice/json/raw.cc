#include "sluice/json/raw.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "sluice/json/text.h"

namespace sluice::json {
namespace {

bool is_space(char c) {
  return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

int hex_value(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Walks over a text, one value at a time.
class Scanner {
 public:
  explicit Scanner(ByteView text) : text_(text) {}

  size_t position() const { return at_; }
  bool at_end() const { return at_ == text_.size(); }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void skip_space() {
    while (at_ < text_.size() && is_space(text_[at_])) ++at_;
  }

  bool take(char c) {
    if (peek() != c || at_end()) return false;
    ++at_;
    return true;
  }

  // The value at the position, which must be its first byte. False after fail().
  bool value(Raw* out, int depth = 0) {
    const size_t start = at_;
    Type type = Type::kNull;
    if (!any(&type, depth)) return false;
    if (out != nullptr) *out = Raw{text_.substr(start, at_ - start), type};
    return true;
  }

  bool string() {
    if (!take('"')) return fail("expected a string");
    for (;;) {
      at_ = next_escape(text_, at_);
      if (at_ + 1 >= text_.size() && peek() != '"') break;
      const char c = text_[at_];
      if (c == '"') {
        ++at_;
        return true;
      }
      if (c != '\\') return fail("a control character in a string");
      const char escape = text_[at_ + 1];
      if (escape == 'u') {
        for (size_t i = 2; i < 6; ++i) {
          if (at_ + i >= text_.size() || hex_value(text_[at_ + i]) < 0) {
            return fail("a broken \\u escape");
          }
        }
        at_ += 6;
      } else if (std::strchr("\"\\/bfnrt", escape) != nullptr && escape != '\0') {
        at_ += 2;
      } else {
        return fail("an unknown escape");
      }
    }
    at_ = text_.size();
    return fail("a string without its end");
  }

  // The value at the position; of an object also what it has under the names.
  bool value(Raw* out, int depth, std::span<const std::string_view> names, std::span<Raw> members) {
    if (names.empty() || peek() != '{') return value(out, depth);
    const size_t start = at_;
    if (!object(depth, names, members)) return false;
    *out = Raw{text_.substr(start, at_ - start), Type::kObject};
    return true;
  }

  // Up to the next element or field: true with *more = false at the closing bracket.
  bool separator(char close, bool first, bool* more) {
    skip_space();
    if (take(close)) {
      *more = false;
      return true;
    }
    if (!first) {
      if (!take(',')) return fail(close == ']' ? "expected ',' or ']'" : "expected ',' or '}'");
      skip_space();
    }
    *more = true;
    return true;
  }

  bool colon() {
    skip_space();
    if (!take(':')) return fail("expected ':'");
    skip_space();
    return true;
  }

  bool fail(const char* what) {
    if (what_ == nullptr) what_ = what;
    return false;
  }
  Error error() const {
    return Error(ErrorCode::kInvalidArgument,
                 std::string("JSON: ") + (what_ != nullptr ? what_ : "malformed") + " at byte " +
                     std::to_string(at_),
                 ErrorOrigin::kCaller);
  }

 private:
  bool any(Type* type, int depth) {
    switch (at_end() ? '\0' : text_[at_]) {
      case '{':
        *type = Type::kObject;
        return object(depth);
      case '[':
        *type = Type::kArray;
        return array(depth);
      case '"':
        *type = Type::kString;
        return string();
      case 't':
        *type = Type::kBool;
        return word("true");
      case 'f':
        *type = Type::kBool;
        return word("false");
      case 'n':
        return word("null");
      default:
        *type = Type::kNumber;
        return at_end() ? fail("a value is missing") : number();
    }
  }

  bool word(std::string_view expected) {
    if (text_.substr(at_, expected.size()) != expected) return fail("an unknown word");
    at_ += expected.size();
    return true;
  }

  bool digits() {
    if (!is_digit(peek())) return fail("expected a digit");
    while (is_digit(peek())) ++at_;
    return true;
  }

  bool number() {
    const size_t start = at_;
    if (!any_number()) return false;
    return at_ - start <= kMaxNumber || fail("a number of too many characters");
  }

  bool any_number() {
    take('-');
    if (take('0')) {
      if (is_digit(peek())) return fail("a number with a leading zero");
    } else if (!is_digit(peek())) {
      return fail("expected a value");
    } else if (!digits()) {
      return false;
    }
    if (take('.') && !digits()) return false;
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      if (!digits()) return false;
    }
    return true;
  }

  bool array(int depth) {
    if (depth >= kMaxDepth) return fail("nested too deeply");
    ++at_;
    bool more = false;
    for (bool first = true; separator(']', first, &more); first = false) {
      if (!more) return true;
      if (!value(nullptr, depth + 1)) return false;
    }
    return false;
  }

  bool object(int depth, std::span<const std::string_view> names = {},
              std::span<Raw> members = {}) {
    if (depth >= kMaxDepth) return fail("nested too deeply");
    ++at_;
    bool more = false;
    for (bool first = true; separator('}', first, &more); first = false) {
      if (!more) return true;
      const size_t start = at_ + 1;
      if (!string()) return false;
      const ByteView name = text_.substr(start, at_ - start - 1);
      Raw* const wanted = names.empty() ? nullptr : place_of(name, names, members);
      if (!colon() || !value(wanted, depth + 1)) return false;
    }
    return false;
  }

  static Raw* place_of(ByteView name, std::span<const std::string_view> names,
                       std::span<Raw> members);

  ByteView text_;
  size_t at_ = 0;
  const char* what_ = nullptr;
};

Error wrong_type(const Raw& value, Type wanted) {
  return Error(ErrorCode::kInvalidArgument,
               "JSON: expected " + std::string(to_string(wanted)) + ", found " +
                   std::string(to_string(value.type)),
               ErrorOrigin::kCaller);
}

void append_utf8(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out.push_back(static_cast<char>(code));
    return;
  }
  const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  constexpr uint32_t kFirst[] = {0, 0xC0, 0xE0, 0xF0};
  out.push_back(static_cast<char>(kFirst[more] | code >> 6 * more));
  for (int left = more - 1; left >= 0; --left) {
    out.push_back(static_cast<char>(0x80 | (code >> 6 * left & 0x3F)));
  }
}

uint32_t hex4(ByteView digits) {
  uint32_t value = 0;
  for (const char c : digits.substr(0, 4)) value = value << 4 | static_cast<uint32_t>(hex_value(c));
  return value;
}

// The content of a string that the scanner has accepted.
std::string unescape(ByteView body, Halves halves = Halves::kReplaced) {
  std::string out;
  out.reserve(body.size());
  while (!body.empty()) {
    const size_t plain = std::min(body.find('\\'), body.size());
    out.append(body.substr(0, plain));
    body.remove_prefix(plain);
    if (body.empty()) break;
    const char escape = body[1];
    if (escape != 'u') {
      constexpr std::string_view kLetters = "bfnrt", kMeant = "\b\f\n\r\t";
      const size_t letter = kLetters.find(escape);
      out.push_back(letter == std::string_view::npos ? escape : kMeant[letter]);
      body.remove_prefix(2);
      continue;
    }
    uint32_t code = hex4(body.substr(2));
    body.remove_prefix(6);
    if (code >= 0xD800 && code <= 0xDBFF && body.size() >= 6 && body[0] == '\\' && body[1] == 'u') {
      const uint32_t low = hex4(body.substr(2));
      if (low >= 0xDC00 && low <= 0xDFFF) {
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        body.remove_prefix(6);
      }
    }
    if (code >= 0xD800 && code <= 0xDFFF && halves == Halves::kReplaced) code = 0xFFFD;
    append_utf8(out, code);
  }
  return out;
}

Raw* Scanner::place_of(ByteView name, std::span<const std::string_view> names,
                       std::span<Raw> members) {
  std::string unescaped;
  if (name.find('\\') != ByteView::npos) name = unescaped = unescape(name);
  const auto it = std::find(names.begin(), names.end(), name);
  return it == names.end() ? nullptr : &members[static_cast<size_t>(it - names.begin())];
}

Result<Raw> only_value(ByteView text, int depth) {
  Scanner scanner(text);
  scanner.skip_space();
  Raw value;
  if (!scanner.value(&value, depth)) return scanner.error();
  scanner.skip_space();
  if (!scanner.at_end()) {
    scanner.fail("more than one value");
    return scanner.error();
  }
  return value;
}

// The value at the scanner's position in `document`, for visit_strings().
bool visit_value(Scanner& scanner, ByteView document, std::string& path, const VisitString& visit,
                 int depth) {
  const bool is_object = scanner.peek() == '{';
  if (!is_object && scanner.peek() != '[') {
    Raw value;
    if (!scanner.value(&value)) return false;
    if (value.is(Type::kString)) visit(path, value);
    return true;
  }
  if (depth >= kMaxDepth) return false;
  scanner.take(scanner.peek());
  const size_t here = path.size();
  bool more = false;
  for (bool first = true; scanner.separator(is_object ? '}' : ']', first, &more); first = false) {
    if (!more) return true;
    std::string_view name = "*";
    if (is_object) {
      const size_t at = scanner.position() + 1;
      if (!scanner.string()) return false;
      name = document.substr(at, scanner.position() - at - 1);
      if (!scanner.colon()) return false;
    }
    path.append("/").append(name);
    if (!visit_value(scanner, document, path, visit, depth + 1)) return false;
    path.resize(here);
  }
  return false;
}

template <class Number>
std::optional<Number> read_number(const Raw& number) {
  if (!number.is(Type::kNumber)) return std::nullopt;
  Number value = 0;
  const char* end = number.text.data() + number.text.size();
  const auto [stop, error] = std::from_chars(number.text.data(), end, value);
  if (error != std::errc() || stop != end) return std::nullopt;
  return value;
}

}  // namespace

std::string_view to_string(Type type) {
  constexpr std::string_view names[] = {"null",     "a boolean", "a number",
                                        "a string", "an array",  "an object"};
  return names[static_cast<size_t>(type) % 6];
}

const Raw* RawObject::find(std::string_view name) const {
  for (auto it = fields.rbegin(); it != fields.rend(); ++it) {
    if (it->name == name) return &it->value;
  }
  return nullptr;
}

Result<Raw> read_value(ByteView text) {
  if (!is_valid_utf8(text)) {
    return Error(ErrorCode::kInvalidArgument, "JSON: the text is not UTF-8", ErrorOrigin::kCaller);
  }
  return only_value(text, 0);
}

Result<void> check(ByteView text, int depth) {
  SLUICE_TRY_VOID(only_value(text, depth));
  return {};
}

Result<Raw> first_value(ByteView text, ByteView* rest) {
  return first_value(text, rest, 0, {}, {});
}

Result<Raw> first_value(ByteView text, ByteView* rest, int depth,
                        std::span<const std::string_view> names, std::span<Raw> members) {
  Scanner scanner(text);
  scanner.skip_space();
  Raw value;
  if (!scanner.value(&value, depth, names, members)) return scanner.error();
  *rest = text.substr(scanner.position());
  return value;
}

bool visit_strings(ByteView document, const VisitString& visit) {
  Scanner scanner(document);
  std::string path;
  scanner.skip_space();
  if (!visit_value(scanner, document, path, visit, 0)) return false;
  scanner.skip_space();
  return scanner.at_end();
}

Result<std::vector<Raw>> elements(const Raw& array) {
  if (!array.is(Type::kArray)) return wrong_type(array, Type::kArray);
  std::vector<Raw> out;
  Scanner scanner(array.text);
  scanner.take('[');
  bool more = false;
  for (bool first = true; scanner.separator(']', first, &more); first = false) {
    if (!more) return out;
    if (!scanner.value(&out.emplace_back(), 1)) break;
  }
  return scanner.error();
}

Result<std::optional<Raw>> element_at(const Raw& array, size_t index) {
  if (!array.is(Type::kArray)) return wrong_type(array, Type::kArray);
  Scanner scanner(array.text);
  scanner.take('[');
  bool more = false;
  for (size_t i = 0; scanner.separator(']', i == 0, &more); ++i) {
    if (!more) return std::optional<Raw>();
    Raw value;
    if (!scanner.value(&value, 1)) break;
    if (i == index) return std::optional<Raw>(value);
  }
  return scanner.error();
}

Result<RawObject> fields(const Raw& object) {
  if (!object.is(Type::kObject)) return wrong_type(object, Type::kObject);
  RawObject out;
  Scanner scanner(object.text);
  scanner.take('{');
  bool more = false;
  for (bool first = true; scanner.separator('}', first, &more); first = false) {
    if (!more) return out;
    const size_t start = scanner.position();
    if (!scanner.string()) break;
    RawField& field = out.fields.emplace_back();
    field.name = unescape(object.text.substr(start + 1, scanner.position() - start - 2));
    if (!scanner.colon() || !scanner.value(&field.value, 1)) break;
  }
  return scanner.error();
}

Result<std::string> to_text(const Raw& string, Halves halves) {
  if (!string.is(Type::kString)) return wrong_type(string, Type::kString);
  Scanner scanner(string.text);
  if (!scanner.string() || !scanner.at_end()) return scanner.error();
  return unescape(string.text.substr(1, string.text.size() - 2), halves);
}

std::optional<int64_t> to_integer(const Raw& number) {
  return read_number<int64_t>(number);
}
std::optional<double> to_double(const Raw& number) {
  return read_number<double>(number);
}
std::optional<float> to_float(const Raw& number) {
  return read_number<float>(number);
}

std::optional<bool> to_bool(const Raw& value) {
  if (!value.is(Type::kBool)) return std::nullopt;
  return value.text == "true";
}

}  // namespace sluice::json
