// Differential: whatever Peeker finds in a document that Boost.JSON accepts is what Boost.JSON
// sees there, and so is what the reader of raw values makes of it.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>

#include "sluice/base/core/check.h"
#include "sluice/json/peek.h"
#include "sluice/json/value.h"

namespace {

using namespace std::string_view_literals;
namespace json = sluice::json;

// Boost.JSON 1.81 rounds the last digit as it likes, and reads 0e332 as NaN.
bool about_equal(const json::Raw& raw, const json::Value& value) {
  const auto exact = json::to_double(raw);
  const double seen = value.to_number<double>();
  if (!exact || !std::isfinite(seen)) return true;
  return std::abs(*exact - seen) <= 1e-9 * std::max(std::abs(*exact), 1e-300);
}

// Whether the functions of raw.h see in `raw` what Boost.JSON saw in the same bytes.
bool same(const json::Raw& raw, const json::Value& value) {
  switch (raw.type) {
    case json::Type::kNull:
      return value.is_null();
    case json::Type::kBool:
      return value.is_bool() && json::to_bool(raw) == value.get_bool();
    case json::Type::kNumber:
      return value.is_number() && about_equal(raw, value);
    case json::Type::kString:
      return value.is_string() && *json::to_text(raw) == std::string_view(value.get_string());
    case json::Type::kArray: {
      const auto list = json::elements(raw);
      if (!list || !value.is_array() || list->size() != value.get_array().size()) return false;
      for (size_t i = 0; i < list->size(); ++i) {
        if (!same((*list)[i], value.get_array()[i])) return false;
      }
      return true;
    }
    case json::Type::kObject: {
      const auto object = json::fields(raw);
      if (!object || !value.is_object()) return false;
      for (const auto& [name, member] : value.get_object()) {
        const json::Raw* field = object->find(std::string_view(name));
        if (field == nullptr || !same(*field, member)) return false;
      }
      for (const auto& field : object->fields) {
        if (!value.get_object().contains(field.name)) return false;
      }
      return true;
    }
  }
  return false;
}

constexpr std::array names{"a"sv, "model"sv, "messages"sv, "stream"sv};

json::Document whole(const std::string& document) {
  json::Document out(document);
  out.check = json::Document::Check::kAll;
  return out;
}

// Peeking into a document by what is known of one like it comes to the same as reading all of it.
void check_likeness(const std::string& document, const std::string& other) {
  json::Peeker peeker;
  json::Outline outline;
  json::Document first = whole(document);
  first.outline = &outline;
  if (!peeker.fields(first, names, 2)) return;
  json::Document second = whole(other);
  second.like = &outline;
  second.prefix = sluice::common_prefix(document, other);
  second.suffix = sluice::common_suffix(std::string_view(document).substr(second.prefix),
                                        std::string_view(other).substr(second.prefix));
  const auto found = peeker.fields(second, names, 2);
  const auto expected = peeker.fields(whole(other), names, 2);
  CHECK(found.has_value() == expected.has_value());
  if (!found) return;
  for (size_t i = 0; i < names.size(); ++i) {
    CHECK((*found)[i].has_value() == (*expected)[i].has_value());
    if (!(*found)[i]) continue;
    CHECK((*found)[i]->value.text.data() == (*expected)[i]->value.text.data());
    CHECK((*found)[i]->value.text.size() == (*expected)[i]->value.text.size());
    CHECK((*found)[i]->count == (*expected)[i]->count);
    CHECK((*found)[i]->name_offset == (*expected)[i]->name_offset);
    CHECK((*found)[i]->fresh_at <= (*found)[i]->count);
  }
}

// With pieces cut out of the document, and put in twice.
void check_likenesses(const std::string& document) {
  for (size_t at = 0; at < 4 && document.size() > 4; ++at) {
    const auto byte = static_cast<unsigned char>(document[document.size() / 4 * at]);
    const size_t begin = (byte * 131 + at * 17) % document.size();
    const size_t length = byte % 23 + 1;
    std::string cut = document;
    cut.erase(begin, length);
    std::string twice = document;
    twice.insert(begin, document.substr(begin, length));
    check_likeness(document, cut);
    check_likeness(document, twice);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  json::Peeker peeker;
  const std::string document(reinterpret_cast<const char*>(data), size);
  const auto found = peeker.fields(document, names);
  check_likenesses(document);
  if (found) {
    for (const auto& field : *found) {
      if (!field) continue;
      CHECK(field->value_offset + field->value.text.size() <= document.size());
      CHECK(field->value.text.data() == document.data() + field->value_offset);
      CHECK(document[field->name_offset] == '"');
    }
  }
  const json::ParseLimits limits{.bytes = 1 << 20, .depth = json::kMaxDepth};
  const auto expected = json::parse(document, limits);
  const auto raw = json::read_value(document);
  // What is let in as JSON throughout is that, to whoever reads it later.
  CHECK(peeker.fields(whole(document), names).has_value() == (found && raw));
  if (!expected || document.size() > json::kMaxNumber) return 0;
  CHECK(raw.has_value());
  CHECK(same(*raw, *expected));
  if (!expected->is_object()) {
    CHECK(!found.has_value());
    return 0;
  }
  const auto all = json::fields(*raw);
  for (size_t i = 0; i < names.size(); ++i) {
    size_t times = 0;
    for (const auto& field : all->fields) times += field.name == names[i] ? 1 : 0;
    if (times > 1) {
      CHECK(!found.has_value());
      return 0;
    }
  }
  CHECK(found.has_value());
  for (size_t i = 0; i < names.size(); ++i) {
    const json::Value* value = expected->get_object().if_contains(names[i]);
    CHECK((*found)[i].has_value() == (value != nullptr));
    if (value == nullptr) continue;
    CHECK(same((*found)[i]->value, *value));
    if (value->is_array()) CHECK((*found)[i]->count == value->get_array().size());
  }
  return 0;
}
