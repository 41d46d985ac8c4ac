// Any JSON as an action, as a tool's arguments and as a JSON-RPC request. What is accepted must be
// accepted again as it came out, with the same result; what is refused must be told in text and in
// JSON that can be read.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "sluice/base/core/check.h"
#include "sluice/env/core.h"
#include "sluice/env/python_text.h"
#include "sluice/env/testing.h"

namespace {

using namespace sluice;
using namespace sluice::env;

// A number that is beyond a double reads as infinite, and is written as Python would.
bool is_finite(const json::Value& value) {
  const auto member_is_finite = [](const auto& member) {
    return is_finite(member.value());
  };
  if (value.is_double()) return std::isfinite(value.get_double());
  if (value.is_array()) {
    return std::all_of(value.get_array().begin(), value.get_array().end(), is_finite);
  }
  return !value.is_object() ||
         std::all_of(value.get_object().begin(), value.get_object().end(), member_is_finite);
}

// Boost.JSON may read a number of many digits one unit in the last place off.
bool same(const json::Value& a, const json::Value& b) {
  if (a.is_double() && b.is_number()) {
    const double x = a.get_double();
    return std::abs(x - b.to_number<double>()) <= std::abs(x) * 1e-15;
  }
  if (a.is_array() && b.is_array()) {
    const json::Array& x = a.get_array();
    const json::Array& y = b.get_array();
    return std::equal(x.begin(), x.end(), y.begin(), y.end(), same);
  }
  if (a.is_object() && b.is_object()) {
    const json::Object& x = a.get_object();
    const json::Object& y = b.get_object();
    return x.size() == y.size() && std::all_of(x.begin(), x.end(), [&](const auto& member) {
             const json::Value* other = y.if_contains(member.key());
             return other != nullptr && same(member.value(), *other);
           });
  }
  return a == b;
}

void check_told(const Mistakes& problems) {
  CHECK(!problems.empty());
  CHECK(is_valid_utf8(to_text(problems, "call[x]")));
  const std::string listed = python::compact(to_json(problems));
  CHECK(json::parse(listed, json::ParseLimits{64 << 20, 256}));
}

void check_arguments(const Tool& tool, const json::Value& value) {
  Mistakes problems;
  const json::Value once = check(tool.input_schema, value, {}, Naming::kCall, &problems);
  if (!problems.empty()) return check_told(problems);
  const json::Value twice = check(tool.input_schema, once, {}, Naming::kCall, &problems);
  CHECK(problems.empty() && once == twice);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static testing::ToolEnvironmentFactory& factory = *new testing::ToolEnvironmentFactory();
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (!is_valid_utf8(text)) return 0;
  const auto value = json::parse(text);
  if (!value) return 0;
  CHECK(is_valid_utf8(python::repr(*value)));
  if (is_finite(*value)) {
    const auto again = json::parse(python::compact(*value), json::ParseLimits{64 << 20, 128});
    CHECK(again && same(*value, *again));
  }
  for (const Tool& tool : *factory.tools()) check_arguments(tool, *value);
  if (const auto rpc = parse_rpc(*value); !rpc) CHECK(is_valid_utf8(rpc.error().message));
  if (value->is_object()) {
    Mistakes problems;
    const Action action = parse_action(value->get_object(), factory.info(), &problems);
    if (!problems.empty()) {
      check_told(problems);
    } else {
      CHECK(action.kind != Action::Kind::kOwn);
    }
  }
  return 0;
}
