// Any bytes as a TOML file, read the way our schemas read: every key by every type, tables deeply.
// Nothing may crash or hang, and an accepted document finishes without a mistake once every key was
// asked for by its own type.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/check.h"
#include "sluice/base/toml.h"

namespace {

using sluice::TomlReader;

constexpr std::string_view kKeys[] = {"a", "b", "c", "name", "timeout_s"};

void read(TomlReader reader, int depth) {
  for (const std::string_view key : kKeys) {
    reader.required_string(key);
    reader.one_of(key, {"x", "y"});
    reader.boolean(key);
    reader.integer(key, -10, 10);
    reader.number(key, -1e3, 1e3);
    reader.seconds(key, std::chrono::seconds(0), std::chrono::hours(24));
    reader.strings(key);
    reader.string_map(key);
    if (const auto json = reader.json(key)) CHECK(sluice::is_valid_utf8(*json));
    if (depth == 0) continue;
    if (auto table = reader.table(key)) read(std::move(*table), depth - 1);
    for (auto& row : reader.tables(key)) read(std::move(row), depth - 1);
    for (auto& [name, table] : reader.named_tables(key)) read(std::move(table), depth - 1);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  auto reader = TomlReader::parse(text, "fuzz.toml");
  if (!reader) {
    CHECK(reader.error().message.starts_with("fuzz.toml:"));
    return 0;
  }
  read(*reader, 2);
  if (const auto finished = reader->finish(); !finished) {
    CHECK(finished.error().message.starts_with("fuzz.toml:"));
  }
  return 0;
}
