// For every document that Boost.JSON accepts: after a splice it accepts the result, in which the
// edited fields are as asked for and all others stand in the same order with the same bytes; and
// undoing an edit by the same means gives the same document back.
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "sluice/base/core/check.h"
#include "sluice/json/splice.h"
#include "sluice/json/value.h"

namespace json = sluice::json;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  json::Peeker peeker;
  const std::string document(reinterpret_cast<const char*>(data), size);
  const json::ParseLimits limits{.bytes = 1 << 20, .depth = json::kMaxDepth};
  const std::array edits{json::Edit{"model", "\"m\""}, json::Edit{"a", std::nullopt},
                         json::Edit{"n", "[1, 2]"}};
  const auto spliced = json::splice(peeker, document, edits);
  const auto accepted = json::parse(document, limits);
  if (!accepted || !accepted->is_object() || !spliced) return 0;

  CHECK(json::parse(*spliced, limits).has_value());
  const auto before = json::fields(*json::read_value(document));
  const auto after = json::fields(*json::read_value(*spliced));
  CHECK(before.has_value() && after.has_value());
  std::vector<json::RawField> expected;
  for (json::RawField field : before->fields) {
    if (field.name == "a") continue;
    if (field.name == "model") field.value.text = "\"m\"";
    if (field.name == "n") field.value.text = "[1, 2]";
    expected.push_back(std::move(field));
  }
  if (before->find("model") == nullptr) expected.push_back({"model", {"\"m\""}});
  if (before->find("n") == nullptr) expected.push_back({"n", {"[1, 2]"}});
  CHECK(after->fields.size() == expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    CHECK(after->fields[i].name == expected[i].name);
    CHECK(after->fields[i].value.text == expected[i].value.text);
  }

  // A replacement alone changes nothing but the value.
  const std::array<std::string_view, 1> names{"n"};
  const auto found = peeker.fields(document, names);
  if (found && (*found)[0]) {
    const json::Raw old = (*found)[0]->value;
    const std::array there{json::Edit{"n", "0"}};
    const auto changed = json::splice(peeker, document, there);
    CHECK(changed.has_value());
    const std::array back{json::Edit{"n", old.text}};
    const auto restored = json::splice(peeker, *changed, back);
    CHECK(restored.has_value() && *restored == document);
  }
  return 0;
}
