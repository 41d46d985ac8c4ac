#include "sluice/env/python_text.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>

#include "sluice/json/text.h"

namespace sluice::env::python {
namespace {

constexpr int kMaxDepth = 64;  // json::ParseLimits::depth

// One character of UTF-8 that is known to be well-formed.
char32_t decode(std::string_view text, size_t* at) {
  const auto octet = [&](size_t i) {
    return static_cast<unsigned char>(text[i]);
  };
  const unsigned char first = octet(*at);
  size_t more = first < 0x80 ? 0 : first < 0xE0 ? 1 : first < 0xF0 ? 2 : 3;
  char32_t c = first & (first < 0x80 ? 0x7F : 0x3F >> more);
  ++*at;
  while (more-- > 0 && *at < text.size()) c = c << 6 | (octet((*at)++) & 0x3FU);
  return c;
}

// Whether str.isprintable() says no. Ranges that nothing visible is assigned to are left out: what
// is printed is only a message.
bool is_unprintable(char32_t c) {
  return c < 0x20 || (c >= 0x7F && c <= 0xA0) || c == 0xAD || c == 0x378 || c == 0x379 ||
         (c >= 0x600 && c <= 0x605) || c == 0x61C || c == 0x180E || (c >= 0x2000 && c <= 0x200F) ||
         (c >= 0x2028 && c <= 0x202F) || (c >= 0x205F && c <= 0x206F) || c == 0x3000 ||
         (c >= 0xD800 && c <= 0xF8FF) || c == 0xFEFF || (c >= 0xFFF0 && c <= 0xFFFB) ||
         c == 0xFFFE || c == 0xFFFF || c == 0x1680 || c >= 0xE0000;
}

void append_repr(std::string& out, std::string_view text) {
  const bool single = text.find('\'') == std::string_view::npos || text.find('"') != text.npos;
  const char quote = single ? '\'' : '"';
  out.push_back(quote);
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const char32_t c = decode(text, &at);
    switch (c) {
      case '\n':
        out.append("\\n");
        break;
      case '\r':
        out.append("\\r");
        break;
      case '\t':
        out.append("\\t");
        break;
      case '\\':
        out.append("\\\\");
        break;
      default:
        if (c == static_cast<char32_t>(quote)) {
          out.push_back('\\');
          out.push_back(quote);
        } else if (!is_unprintable(c)) {
          out.append(text.substr(start, at - start));
        } else if (c <= 0xFF) {
          fmt::format_to(std::back_inserter(out), "\\x{:02x}", static_cast<uint32_t>(c));
        } else if (c <= 0xFFFF) {
          fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<uint32_t>(c));
        } else {
          fmt::format_to(std::back_inserter(out), "\\U{:08x}", static_cast<uint32_t>(c));
        }
    }
  }
  out.push_back(quote);
}

void append_ascii_string(std::string& out, std::string_view text) {
  out.push_back('"');
  for (size_t at = 0; at < text.size();) {
    const char32_t c = decode(text, &at);
    if (c == '"' || c == '\\') {
      out.push_back('\\');
      out.push_back(static_cast<char>(c));
    } else if (c == '\n') {
      out.append("\\n");
    } else if (c == '\r') {
      out.append("\\r");
    } else if (c == '\t') {
      out.append("\\t");
    } else if (c == '\b') {
      out.append("\\b");
    } else if (c == '\f') {
      out.append("\\f");
    } else if (c >= 0x20 && c < 0x7F) {
      out.push_back(static_cast<char>(c));
    } else if (c <= 0xFFFF) {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<uint32_t>(c));
    } else {
      const auto rest = static_cast<uint32_t>(c) - 0x10000;
      fmt::format_to(std::back_inserter(out), "\\u{:04x}\\u{:04x}", 0xD800 + (rest >> 10),
                     0xDC00 + (rest & 0x3FF));
    }
  }
  out.push_back('"');
}

void append_float_repr(std::string& out, double number) {
  out.append(float_repr(number));
}

void append_json_number(std::string& out, double number) {
  out.append(std::isfinite(number) ? float_repr(number) : "null");
}

// How a value is written.
struct Style {
  std::string_view null, yes, no;
  std::string_view comma, colon;
  void (*number)(std::string& out, double number);
  void (*string)(std::string& out, std::string_view text);
};

constexpr Style kRepr{"None", "True", "False", ", ", ": ", append_float_repr, append_repr};
constexpr Style kCompact{
    "null", "true", "false", ",", ":", append_json_number, json::append_string};
constexpr Style kDumps{
    "null", "true", "false", ", ", ": ", append_json_number, append_ascii_string};

void append_value(std::string& out, const json::Value& value, const Style& style) {
  switch (value.kind()) {
    case boost::json::kind::null:
      out.append(style.null);
      break;
    case boost::json::kind::bool_:
      out.append(value.get_bool() ? style.yes : style.no);
      break;
    case boost::json::kind::int64:
      out.append(std::to_string(value.get_int64()));
      break;
    case boost::json::kind::uint64:
      out.append(std::to_string(value.get_uint64()));
      break;
    case boost::json::kind::double_:
      style.number(out, value.get_double());
      break;
    case boost::json::kind::string:
      style.string(out, std::string_view(value.get_string()));
      break;
    case boost::json::kind::array: {
      out.push_back('[');
      bool first = true;
      for (const json::Value& item : value.get_array()) {
        if (!std::exchange(first, false)) out.append(style.comma);
        append_value(out, item, style);
      }
      out.push_back(']');
      break;
    }
    case boost::json::kind::object: {
      out.push_back('{');
      bool first = true;
      for (const auto& member : value.get_object()) {
        if (!std::exchange(first, false)) out.append(style.comma);
        style.string(out, std::string_view(member.key()));
        out.append(style.colon);
        append_value(out, member.value(), style);
      }
      out.push_back('}');
      break;
    }
  }
}

// Walks over JSON as CPython's scanner does.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}

  bool document() {
    skip_space();
    if (!value(0)) return false;
    skip_space();
    return at_ == text_.size() || fail("Extra data", at_);
  }
  size_t where() const { return where_; }
  std::string_view message() const { return message_; }

 private:
  bool fail(std::string_view message, size_t where) {
    message_ = message;
    where_ = where;
    return false;
  }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool is(char c) const { return at_ < text_.size() && text_[at_] == c; }
  void skip_space() {
    while (is(' ') || is('\t') || is('\n') || is('\r')) ++at_;
  }

  bool value(int depth) {
    if (depth > kMaxDepth) return fail("Nested too deeply", at_);
    if (is('"')) return string();
    if (is('{')) return object(depth);
    if (is('[')) return array(depth);
    for (const std::string_view word : {"null", "true", "false"}) {
      if (text_.substr(at_, word.size()) == word) {
        at_ += word.size();
        return true;
      }
    }
    return number();
  }

  bool digits() {
    const size_t start = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    return at_ > start;
  }

  bool number() {
    const size_t start = at_;
    if (is('-')) ++at_;
    if (is('0')) {
      ++at_;
    } else if (!digits()) {
      return fail("Expecting value", start);
    }
    const size_t whole = at_;
    if (is('.')) {
      ++at_;
      if (!digits()) at_ = whole;
    }
    const size_t real = at_;
    if (is('e') || is('E')) {
      ++at_;
      if (is('+') || is('-')) ++at_;
      if (!digits()) at_ = real;
    }
    return true;
  }

  bool string() {
    const size_t start = at_++;
    for (;;) {
      if (at_ >= text_.size()) return fail("Unterminated string starting at", start);
      const char c = text_[at_];
      if (c == '"') {
        ++at_;
        return true;
      }
      if (static_cast<unsigned char>(c) < 0x20) return fail("Invalid control character at", at_);
      if (c != '\\') {
        ++at_;
        continue;
      }
      const size_t escape = at_++;
      if (at_ >= text_.size()) return fail("Unterminated string starting at", start);
      if (text_[at_] == 'u') {
        uint32_t unit = 0;
        if (!hex4(&unit)) return fail("Invalid \\uXXXX escape", escape + 1);
        if (unit >= 0xDC00 && unit <= 0xDFFF) return fail("Invalid \\uXXXX escape", escape + 1);
        if (unit >= 0xD800 && unit <= 0xDBFF) {
          uint32_t low = 0;
          bool pair = text_.substr(at_, 2) == "\\u";
          if (pair) {
            ++at_;
            pair = hex4(&low);
          }
          if (!pair || low < 0xDC00 || low > 0xDFFF) {
            return fail("Invalid \\uXXXX escape", escape + 1);
          }
        }
      } else if (std::string_view("\"\\/bfnrt").find(text_[at_]) != std::string_view::npos) {
        ++at_;
      } else {
        return fail("Invalid \\escape", escape);
      }
    }
  }

  bool hex4(uint32_t* unit) {
    const std::string_view four = text_.substr(at_ + 1, 4);
    const auto [end, error] = std::from_chars(four.data(), four.data() + four.size(), *unit, 16);
    if (four.size() < 4 || error != std::errc() || end != four.data() + 4) return false;
    at_ += 5;
    return true;
  }

  bool object(int depth) {
    ++at_;
    skip_space();
    if (is('}')) {
      ++at_;
      return true;
    }
    for (;;) {
      if (!is('"')) return fail("Expecting property name enclosed in double quotes", at_);
      if (!string()) return false;
      skip_space();
      if (!is(':')) return fail("Expecting ':' delimiter", at_);
      ++at_;
      skip_space();
      if (!value(depth + 1)) return false;
      skip_space();
      if (is('}')) {
        ++at_;
        return true;
      }
      if (!is(',')) return fail("Expecting ',' delimiter", at_);
      ++at_;
      skip_space();
    }
  }

  bool array(int depth) {
    ++at_;
    skip_space();
    if (is(']')) {
      ++at_;
      return true;
    }
    for (;;) {
      if (!value(depth + 1)) return false;
      skip_space();
      if (is(']')) {
        ++at_;
        return true;
      }
      if (!is(',')) return fail("Expecting ',' delimiter", at_);
      ++at_;
      skip_space();
    }
  }

  std::string_view text_;
  size_t at_ = 0;
  size_t where_ = 0;
  std::string_view message_;
};

size_t characters(std::string_view text) {
  size_t count = 0;
  for (const char c : text) count += (static_cast<unsigned char>(c) & 0xC0) != 0x80 ? 1 : 0;
  return count;
}

}  // namespace

std::string float_repr(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  char text[40];
  const auto [end, error] =
      std::to_chars(text, text + sizeof text, number, std::chars_format::scientific);
  const std::string_view all(text, static_cast<size_t>(end - text));
  const size_t e = all.find('e');
  const int exponent = std::atoi(std::string(all.substr(e + 1)).c_str());
  std::string out;
  std::string_view mantissa = all.substr(0, e);
  if (mantissa.starts_with('-')) {
    out.push_back('-');
    mantissa.remove_prefix(1);
  }
  // Python writes an exponent from 1e16 and below 1e-4 on.
  if (exponent < -4 || exponent >= 16) {
    return fmt::format("{}{}e{}{:02}", out, mantissa, exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  std::string digits(1, mantissa[0]);
  if (mantissa.size() > 2) digits.append(mantissa.substr(2));
  if (exponent < 0) {
    out.append("0.").append(static_cast<size_t>(-exponent - 1), '0').append(digits);
  } else {
    const auto whole = static_cast<size_t>(exponent) + 1;
    if (digits.size() < whole) digits.append(whole - digits.size(), '0');
    out.append(digits, 0, whole).append(".");
    out.append(digits.size() > whole ? digits.substr(whole) : "0");
  }
  return out;
}

std::string_view type_name(const json::Value& value) {
  switch (value.kind()) {
    case boost::json::kind::null:
      return "NoneType";
    case boost::json::kind::bool_:
      return "bool";
    case boost::json::kind::int64:
    case boost::json::kind::uint64:
      return "int";
    case boost::json::kind::double_:
      return "float";
    case boost::json::kind::string:
      return "str";
    case boost::json::kind::array:
      return "list";
    case boost::json::kind::object:
      break;
  }
  return "dict";
}

std::string repr(const json::Value& value) {
  std::string out;
  append_value(out, value, kRepr);
  return out;
}

std::string str(const json::Value& value) {
  return value.is_string() ? std::string(value.get_string()) : repr(value);
}

void append_compact(std::string& out, const json::Value& value) {
  append_value(out, value, kCompact);
}

std::string compact(const json::Value& value) {
  std::string out;
  append_compact(out, value);
  return out;
}

std::string dumps(const json::Value& value) {
  std::string out;
  append_value(out, value, kDumps);
  return out;
}

std::string JsonFault::text() const {
  return fmt::format("{}: line {} column {} (char {})", message, line, column, position);
}

JsonFault find_json_fault(std::string_view text) {
  JsonFault fault;
  if (text.starts_with("\xEF\xBB\xBF")) {
    fault.message = "Unexpected UTF-8 BOM (decode using utf-8-sig)";
    return fault;
  }
  Scanner scanner(text);
  if (scanner.document()) {
    // json::parse() knows better.
    fault.message = "Expecting value";
    return fault;
  }
  const std::string_view before = text.substr(0, scanner.where());
  const size_t line_start = before.rfind('\n') == before.npos ? 0 : before.rfind('\n') + 1;
  fault.message = scanner.message();
  fault.position = characters(before);
  fault.column = characters(before.substr(line_start)) + 1;
  for (const char c : before) fault.line += c == '\n' ? 1 : 0;
  return fault;
}

}  // namespace sluice::env::python
