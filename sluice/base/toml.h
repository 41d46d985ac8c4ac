// Reading TOML files against a schema that is the code that reads them.
//
// A reader is asked for each key by name and type; it remembers what it was asked for, keeps the
// first mistake with its file, line and what to do, and returns harmless defaults from then on, so
// that the reading code needs no checks of its own. finish() on the root reports the first mistake,
// or the first key that nobody asked for.
//
//   SLUICE_TRY(TomlReader in, TomlReader::parse(text, "task.toml"));
//   task.instruction = in.required_string("instruction");
//   task.timeout = in.seconds("timeout_s", 1s, 24h).value_or(600s);
//   for (TomlReader row : in.tables("files")) ...
//   SLUICE_TRY_VOID(in.finish());
//
// Readers of one file share its parsed document; one thread at a time.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/base/core/deadline.h"
#include "sluice/base/core/result.h"

namespace sluice {

class TomlReader {
 public:
  // `source` is what errors call the file. At most 1 MiB of text.
  static Result<TomlReader> parse(std::string_view text, std::string source);

  bool has(std::string_view key) const;
  // For what may stand there in two forms.
  bool is_table(std::string_view key) const;

  std::string required_string(std::string_view key);
  std::optional<std::string> string(std::string_view key);
  // One of `allowed`, else a mistake that lists them.
  std::optional<std::string> one_of(std::string_view key, std::vector<std::string_view> allowed);
  // The value whose to_string() stands there.
  template <class Enum, size_t kSize>
  std::optional<Enum> one_of(std::string_view key, const std::array<Enum, kSize>& values) {
    std::vector<std::string_view> words;
    for (const Enum value : values) words.push_back(to_string(value));
    const auto word = one_of(key, words);
    if (!word) return std::nullopt;
    return values[static_cast<size_t>(std::find(words.begin(), words.end(), *word) -
                                      words.begin())];
  }
  std::optional<bool> boolean(std::string_view key);
  std::optional<int64_t> integer(std::string_view key, int64_t min, int64_t max);
  // An integer or a float.
  std::optional<double> number(std::string_view key, double min, double max);
  // A number of seconds.
  std::optional<Duration> seconds(std::string_view key, Duration min, Duration max);
  std::vector<std::string> strings(std::string_view key);
  // A table whose values are all strings, in the file's order of keys made alphabetical.
  std::map<std::string, std::string> string_map(std::string_view key);

  // The keys of this table, alphabetical.
  std::vector<std::string> keys() const;
  // A string as it is, any other value as JSON text.
  std::optional<std::string> text(std::string_view key);

  // Any value as JSON text, for what is passed on without being understood.
  std::optional<std::string> json(std::string_view key);

  std::optional<TomlReader> table(std::string_view key);
  // An array of tables ([[key]]).
  std::vector<TomlReader> tables(std::string_view key);
  // A table of tables ([key.NAME]).
  std::vector<std::pair<std::string, TomlReader>> named_tables(std::string_view key);

  // Records a mistake at `key` (at this table, if the key is absent or ""): "file:line: key:
  // message".
  void mistake(std::string_view key, std::string_view message);

  // The first mistake or unknown key of the whole document. Call it on the root, last.
  Result<void> finish() const;

 private:
  struct Document;
  struct View;
  TomlReader(std::shared_ptr<Document> document, View* view)
      : document_(std::move(document)), view_(view) {}
  TomlReader child(const void* table, std::string path);

  std::shared_ptr<Document> document_;
  View* view_;  // the document's
};

}  // namespace sluice
