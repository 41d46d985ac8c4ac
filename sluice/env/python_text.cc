#include "sluice/env/python_text.h"

#include <fmt/format.h>

#include <cmath>
#include <iterator>
#include <utility>

#include "sluice/json/text.h"

namespace sluice::env::python {
namespace {

void append_repr(std::string& out, std::string_view text) {
  const bool single = text.find('\'') == text.npos || text.find('"') != text.npos;
  const char quote = single ? '\'' : '"';
  out.push_back(quote);
  for (const char c : text) {
    if (c == quote || c == '\\') {
      out.append({'\\', c});
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out.append({'\\', c == '\n' ? 'n' : c == '\r' ? 'r' : 't'});
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      fmt::format_to(std::back_inserter(out), "\\x{:02x}", static_cast<int>(c));
    } else {
      out.push_back(c);
    }
  }
  out.push_back(quote);
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

}  // namespace

std::string float_repr(double number) {
  std::string out = fmt::format("{}", number);
  if (std::isfinite(number) && out.find_first_of(".e") == out.npos) out.append(".0");
  return out;
}

std::string repr(const json::Value& value) {
  std::string out;
  append_value(out, value, kRepr);
  return out;
}

std::string str(const json::Value& value) {
  return value.is_string() ? std::string(value.get_string()) : repr(value);
}

std::string compact(const json::Value& value) {
  std::string out;
  append_value(out, value, kCompact);
  return out;
}

}  // namespace sluice::env::python
