#include "sluice/base/toml.h"

#define TOML_EXCEPTIONS 0
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <sstream>

#include <toml++/toml.h>

namespace sluice {
namespace {

constexpr size_t kMaxText = 1 << 20;

std::string_view type_name(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return "an array";
    case toml::node_type::string:
      return "a string";
    case toml::node_type::integer:
      return "an integer";
    case toml::node_type::floating_point:
      return "a float";
    case toml::node_type::boolean:
      return "a boolean";
    default:
      return "a date or time";
  }
}

}  // namespace

struct TomlReader::Document {
  toml::table root;
  std::string source;
  std::optional<Error> mistake;
  std::vector<std::unique_ptr<View>> views;  // every table that was opened, for finish()
};

struct TomlReader::View {
  Document* document;
  const toml::table* table = nullptr;
  std::string path;  // "" for the root, else "agent.files"
  std::set<std::string, std::less<>> asked;

  std::string name(std::string_view key) const {
    return path.empty() ? std::string(key) : fmt::format("{}.{}", path, key);
  }
  void mistake_at(const toml::node& node, std::string_view key, std::string_view message) const {
    if (document->mistake) return;
    document->mistake = Error(ErrorCode::kInvalidArgument,
                              fmt::format("{}:{}: {}: {}", document->source,
                                          node.source().begin.line, name(key), message),
                              ErrorOrigin::kCaller);
  }
};

Result<TomlReader> TomlReader::parse(std::string_view text, std::string source) {
  if (text.size() > kMaxText) {
    return Error(ErrorCode::kTooLarge, fmt::format("{}: more than {} bytes", source, kMaxText),
                 ErrorOrigin::kCaller);
  }
  toml::parse_result parsed = toml::parse(text, source);
  if (!parsed) {
    return Error(ErrorCode::kInvalidArgument,
                 fmt::format("{}:{}: {}", source, parsed.error().source().begin.line,
                             parsed.error().description()),
                 ErrorOrigin::kCaller);
  }
  auto document = std::make_shared<Document>();
  document->root = std::move(parsed).table();
  document->source = std::move(source);
  View* root =
      document->views
          .emplace_back(std::make_unique<View>(View{document.get(), &document->root, "", {}}))
          .get();
  return TomlReader(std::move(document), root);
}

const void* TomlReader::find(std::string_view key) {
  view_->asked.emplace(key);
  return view_->table->get(key);
}

bool TomlReader::has(std::string_view key) const {
  return view_->table->contains(key);
}

std::optional<std::string> TomlReader::string(std::string_view key) {
  const auto* node = static_cast<const toml::node*>(find(key));
  if (node == nullptr) return std::nullopt;
  if (const auto* value = node->as_string()) return value->get();
  view_->mistake_at(*node, key, fmt::format("must be a string, is {}", type_name(*node)));
  return std::nullopt;
}

std::string TomlReader::required_string(std::string_view key) {
  if (!has(key)) {
    view_->asked.emplace(key);
    mistake(key, "is required (a string)");
    return {};
  }
  auto value = string(key);
  if (value && value->empty()) mistake(key, "must not be empty");
  return value.value_or("");
}

std::optional<std::string> TomlReader::one_of(std::string_view key,
                                              std::vector<std::string_view> allowed) {
  auto value = string(key);
  if (value && std::find(allowed.begin(), allowed.end(), *value) == allowed.end()) {
    mistake(key, fmt::format("is \"{}\"; must be one of: {}", *value, fmt::join(allowed, ", ")));
    return std::nullopt;
  }
  return value;
}

std::optional<bool> TomlReader::boolean(std::string_view key) {
  const auto* node = static_cast<const toml::node*>(find(key));
  if (node == nullptr) return std::nullopt;
  if (const auto* value = node->as_boolean()) return value->get();
  view_->mistake_at(*node, key, fmt::format("must be true or false, is {}", type_name(*node)));
  return std::nullopt;
}

std::optional<int64_t> TomlReader::integer(std::string_view key, int64_t min, int64_t max) {
  const auto* node = static_cast<const toml::node*>(find(key));
  if (node == nullptr) return std::nullopt;
  const auto* value = node->as_integer();
  if (value == nullptr) {
    view_->mistake_at(*node, key, fmt::format("must be an integer, is {}", type_name(*node)));
    return std::nullopt;
  }
  if (value->get() < min || value->get() > max) {
    view_->mistake_at(*node, key,
                      fmt::format("is {}; must be from {} to {}", value->get(), min, max));
    return std::nullopt;
  }
  return value->get();
}

std::optional<double> TomlReader::number(std::string_view key, double min, double max) {
  const auto* node = static_cast<const toml::node*>(find(key));
  if (node == nullptr) return std::nullopt;
  double value = 0;
  if (const auto* whole = node->as_integer()) {
    value = static_cast<double>(whole->get());
  } else if (const auto* real = node->as_floating_point()) {
    value = real->get();
  } else {
    view_->mistake_at(*node, key, fmt::format("must be a number, is {}", type_name(*node)));
    return std::nullopt;
  }
  if (!(value >= min && value <= max)) {
    view_->mistake_at(*node, key, fmt::format("is {}; must be from {} to {}", value, min, max));
    return std::nullopt;
  }
  return value;
}

std::optional<Duration> TomlReader::seconds(std::string_view key, Duration min, Duration max) {
  using Seconds = std::chrono::duration<double>;
  const auto value = number(key, Seconds(min).count(), Seconds(max).count());
  if (!value) return std::nullopt;
  return std::chrono::duration_cast<Duration>(Seconds(*value));
}

std::vector<std::string> TomlReader::strings(std::string_view key) {
  std::vector<std::string> out;
  const auto* node = static_cast<const toml::node*>(find(key));
  if (node == nullptr) return out;
  const auto* array = node->as_array();
  if (array == nullptr) {
    view_->mistake_at(*node, key,
                      fmt::format("must be an array of strings, is {}", type_name(*node)));
    return out;
  }
  for (const toml::node& element : *array) {
    if (const auto* value = element.as_string()) {
      out.push_back(value->get());
    } else {
      view_->mistake_at(element, key,
                        fmt::format("must hold only strings, holds {}", type_name(element)));
    }
  }
  return out;
}

std::map<std::string, std::string> TomlReader::string_map(std::string_view key) {
  std::map<std::string, std::string> out;
  const auto* node = static_cast<const toml::node*>(find(key));
  if (node == nullptr) return out;
  const auto* table = node->as_table();
  if (table == nullptr) {
    view_->mistake_at(*node, key,
                      fmt::format("must be a table of strings, is {}", type_name(*node)));
    return out;
  }
  for (const auto& [name, value] : *table) {
    if (const auto* text = value.as_string()) {
      out.emplace(name.str(), text->get());
    } else {
      view_->mistake_at(value, fmt::format("{}.{}", key, name.str()),
                        fmt::format("must be a string, is {}", type_name(value)));
    }
  }
  return out;
}

std::optional<std::string> TomlReader::json(std::string_view key) {
  const auto* node = static_cast<const toml::node*>(find(key));
  if (node == nullptr) return std::nullopt;
  std::ostringstream out;
  node->visit([&](const auto& value) { out << toml::json_formatter(value); });
  return std::move(out).str();
}

TomlReader TomlReader::child(const void* table, std::string path) {
  auto view = std::make_unique<View>(
      View{document_.get(), static_cast<const toml::table*>(table), std::move(path), {}});
  return TomlReader(document_, document_->views.emplace_back(std::move(view)).get());
}

std::optional<TomlReader> TomlReader::table(std::string_view key) {
  const auto* node = static_cast<const toml::node*>(find(key));
  if (node == nullptr) return std::nullopt;
  if (const auto* value = node->as_table()) return child(value, view_->name(key));
  view_->mistake_at(*node, key, fmt::format("must be a table, is {}", type_name(*node)));
  return std::nullopt;
}

std::vector<TomlReader> TomlReader::tables(std::string_view key) {
  std::vector<TomlReader> out;
  const auto* node = static_cast<const toml::node*>(find(key));
  if (node == nullptr) return out;
  const auto* array = node->as_array();
  if (array == nullptr) {
    view_->mistake_at(*node, key,
                      fmt::format("must be an array of tables ([[{}]]), is {}", view_->name(key),
                                  type_name(*node)));
    return out;
  }
  for (size_t i = 0; i < array->size(); ++i) {
    const toml::node& element = *array->get(i);
    if (const auto* value = element.as_table()) {
      out.push_back(child(value, fmt::format("{}[{}]", view_->name(key), i)));
    } else {
      view_->mistake_at(element, key,
                        fmt::format("must hold only tables, holds {}", type_name(element)));
    }
  }
  return out;
}

std::vector<std::pair<std::string, TomlReader>> TomlReader::named_tables(std::string_view key) {
  std::vector<std::pair<std::string, TomlReader>> out;
  auto outer = table(key);
  if (!outer) return out;
  for (const auto& [name, value] : *outer->view_->table) {
    if (auto inner = outer->table(name.str())) {
      out.emplace_back(std::string(name.str()), std::move(*inner));
    }
  }
  return out;
}

void TomlReader::mistake(std::string_view key, std::string_view message) {
  const toml::node* node = view_->table->get(key);
  view_->mistake_at(node != nullptr ? *node : *view_->table, key, message);
}

Result<void> TomlReader::finish() const {
  for (const auto& view : document_->views) {
    for (const auto& [key, value] : *view->table) {
      if (view->asked.contains(key.str())) continue;
      view->mistake_at(value, key.str(),
                       fmt::format("unknown key; known here: {}", fmt::join(view->asked, ", ")));
    }
  }
  if (document_->mistake) return *document_->mistake;
  return {};
}

}  // namespace sluice
