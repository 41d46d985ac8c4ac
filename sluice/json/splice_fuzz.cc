// For every document that Boost.JSON accepts: after a splice it sees the same object but for the
// edits, and undoing an edit by the same means gives the same bytes back.
#include <array>
#include <cstdint>
#include <string>

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
  auto expected = json::parse(document, limits);
  // A number that Boost.JSON reads as NaN (0e332) equals nothing, not even itself.
  if (!expected || !expected->is_object() || !spliced || !(*expected == *expected)) return 0;

  json::Object& object = expected->get_object();
  object["model"] = "m";
  object["n"] = json::Array{1, 2};
  object.erase("a");
  const auto seen = json::parse(*spliced, limits);
  CHECK(seen.has_value());
  CHECK(*seen == *expected);

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
