// Differential: whatever Peeker finds in a document that Boost.JSON accepts is what Boost.JSON
// sees there, and so is what the reader of raw values makes of it.
#include <array>
#include <cstdint>
#include <string>

#include "sluice/base/core/check.h"
#include "sluice/json/peek.h"
#include "sluice/json/value.h"

namespace {

using namespace std::string_view_literals;
namespace json = sluice::json;

// Boost.JSON's view of a raw value, built by the functions of raw.h alone.
json::Value tree(const json::Raw& raw) {
  switch (raw.type) {
    case json::Type::kString:
      return json::Value(std::string_view(*json::to_text(raw)));
    case json::Type::kArray: {
      json::Array out;
      const auto list = json::elements(raw);
      CHECK(list.has_value());
      for (const json::Raw& element : *list) out.push_back(tree(element));
      return out;
    }
    case json::Type::kObject: {
      json::Object out;
      const auto object = json::fields(raw);
      CHECK(object.has_value());
      for (const auto& field : object->fields) out.insert_or_assign(field.name, tree(field.value));
      return out;
    }
    default:
      return *json::parse(raw.text);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static constexpr std::array names{"a"sv, "model"sv, "messages"sv, "stream"sv};
  json::Peeker peeker;
  const std::string document(reinterpret_cast<const char*>(data), size);
  const auto found = peeker.fields(document, names);
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
  // Boost.JSON 1.81 reads 0e332 as NaN, which equals nothing, not even itself.
  if (!expected || !(*expected == *expected)) return 0;
  CHECK(raw.has_value());
  CHECK(tree(*raw) == *expected);
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
    CHECK(tree((*found)[i]->value) == *value);
    if (value->is_array()) CHECK((*found)[i]->count == value->get_array().size());
  }
  return 0;
}
