#include "sluice/agent/spec.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <ranges>

#include "sluice/base/digest.h"
#include "sluice/base/id.h"
#include "sluice/base/toml.h"

namespace sluice::agent {
namespace {

using namespace std::chrono_literals;

constexpr std::array kEventKinds{EventKind::kText, EventKind::kReasoning, EventKind::kTool,
                                 EventKind::kStep, EventKind::kError,     EventKind::kDone};

// One version and no other: no tag (latest), no range (^1.2, 1.x).
bool is_version(std::string_view text) {
  const auto digit = [](char c) {
    return c >= '0' && c <= '9';
  };
  return !text.empty() && digit(text.front()) && text.find_first_of("*xX |<>=~^") == text.npos;
}

// Of a path in a bundle.
bool is_below(std::string_view path) {
  return !path.empty() && path.front() != '/' && path.find("..") == std::string_view::npos;
}

// Reads a spec section by section; every mistake goes to the reader, which keeps the first.
class SpecParser {
 public:
  explicit SpecParser(TomlReader root, std::string source) : root_(std::move(root)) {
    spec_.source = std::move(source);
  }

  Result<Spec> parse() {
    spec_.name = root_.required_string("name");
    if (!spec_.name.empty() && !is_valid_id(spec_.name)) {
      root_.mistake("name", "must be 1 to 64 letters, digits, '.', '-' or '_'");
    }
    spec_.version = root_.required_string("version");
    spec_.description = root_.string("description").value_or("");
    spec_.needs = root_.strings("needs");
    dialects();  // before what uses their placeholders
    known_.insert(placeholder_names().begin(), placeholder_names().end());
    bundle();
    install();
    run();
    files();
    options();
    mcp();
    events();
    artifacts();
    gate();
    SLUICE_TRY_VOID(root_.finish());
    return std::move(spec_);
  }

 private:
  void check_template(TomlReader& in, std::string_view key, std::string_view text,
                      std::string_view also = {}) {
    for (const std::string& name : names_in(text)) {
      if (name == "program" && !spec_.bundle && !spec_.install) {
        in.mistake(key, "uses {program}, and neither [bundle] nor [install] says what that is");
      }
      if (name == also || known_.contains(name)) continue;
      in.mistake(key, fmt::format("uses the unknown placeholder {{{}}}; known: {}", name,
                                  fmt::join(known_, ", ")));
    }
  }

  // Arguments are read by whoever can list processes.
  void check_argument(TomlReader& in, std::string_view key, std::string_view text,
                      std::string_view also = {}) {
    check_template(in, key, text, also);
    for (const std::string& name : names_in(text)) {
      if (name == "key") in.mistake(key, "must not hold {key}: put it into run.env or a file");
    }
  }

  void dialects() {
    for (auto& [name, in] : root_.named_tables("dialects")) {
      const auto dialect = llm::dialect_from(name);
      if (!dialect) {
        in.mistake("", "unknown dialect; known: " + llm::dialect_names());
        continue;
      }
      DialectSpec row{*dialect, in.string("path").value_or(""), {}};
      if (!row.path.empty() && row.path.front() != '/') in.mistake("path", "must begin with /");
      for (auto& [key, value] : in.string_map("vars")) {
        known_.insert(key);
        row.vars.emplace(key, value);
      }
      spec_.dialects.push_back(std::move(row));
    }
    if (spec_.dialects.empty()) {
      root_.mistake("dialects", "at least one is needed, such as [dialects.chat]");
    }
    const auto preferred = root_.string("default_dialect");
    if (!preferred) return;
    const auto it = std::find_if(
        spec_.dialects.begin(), spec_.dialects.end(),
        [&](const DialectSpec& row) { return llm::to_string(row.dialect) == *preferred; });
    if (it == spec_.dialects.end()) {
      root_.mistake("default_dialect", "is none of the [dialects]");
    } else {
      std::rotate(spec_.dialects.begin(), it, it + 1);
    }
  }

  void bundle() {
    auto in = root_.table("bundle");
    if (!in) return;
    BundleSpec bundle;
    bundle.npm = in->strings("npm");
    for (std::string& package : bundle.npm) {
      auto expanded = expand(package, {{"version", spec_.version}});
      if (!expanded) {
        in->mistake("npm", expanded.error().message);
        continue;
      }
      package = std::move(*expanded);
      // The last '@' that is not a scope's: a range or a tag would give another agent tomorrow.
      const size_t at = package.rfind('@');
      if (at == std::string::npos || at == 0 || package.front() == '-' ||
          !is_version(std::string_view(package).substr(at + 1))) {
        in->mistake("npm", fmt::format("\"{}\" must be pinned, as in name@1.2.3", package));
      }
    }
    bundle.install_scripts = in->strings("install_scripts");
    for (const std::string& name : bundle.install_scripts) {
      if (name.find_first_of("\"\\") != std::string::npos) {
        in->mistake("install_scripts", "must be names of packages");
      }
    }
    bundle.keep = in->strings("keep");
    if (!std::ranges::all_of(bundle.keep, is_below)) {
      in->mistake("keep", "must be paths below the bundle");
    }
    bundle.files = in->string_map("files");
    if (bundle.npm.empty() && bundle.files.empty()) {
      in->mistake("npm",
                  "is required: the npm packages to install; or files, for programs of your own");
    }
    if (!std::ranges::all_of(bundle.files | std::views::keys, is_below)) {
      in->mistake("files", "must be named by paths below the bundle");
    }
    spec_.program = in->required_string("program");
    check_template(*in, "program", spec_.program);
    spec_.bundle = std::move(bundle);
  }

  void install() {
    auto in = root_.table("install");
    if (!in) return;
    InstallSpec install;
    install.commands = in->strings("commands");
    for (const std::string& command : install.commands) check_template(*in, "commands", command);
    install.program = in->required_string("program");
    spec_.install = std::move(install);
  }

  void run() {
    auto in = root_.table("run");
    if (!in) {
      root_.mistake("run", "is missing: [run] says how the agent is started");
      return;
    }
    spec_.command = in->strings("command");
    if (spec_.command.empty()) in->mistake("command", "is required: the program and its arguments");
    for (const std::string& word : spec_.command) check_argument(*in, "command", word);
    spec_.approvals_bypass = in->strings("approvals_bypass");
    const auto prompt = in->one_of("prompt", {"stdin", "argument"});
    spec_.prompt = prompt == "argument" ? PromptBy::kArgument : PromptBy::kStdin;
    spec_.prompt_lead = in->string("prompt_lead").value_or("");
    if (!spec_.prompt_lead.empty() && spec_.prompt == PromptBy::kStdin) {
      in->mistake("prompt_lead", "goes with prompt = \"argument\"");
    }
    spec_.timeout = in->seconds("timeout_s", 1s, 24h).value_or(spec_.timeout);
    spec_.env = in->string_map("env");
    for (const auto& [name, value] : spec_.env) check_template(*in, "env", value);
    spec_.success_from_events = in->one_of("success_from", {"exit_code", "events"}) == "events";
  }

  void files() {
    for (TomlReader& in : root_.tables("files")) {
      FileSpec file;
      file.path = in.required_string("path");
      check_template(in, "path", file.path);
      file.content = in.string("content").value_or("");
      check_template(in, "content", file.content);
      spec_.files.push_back(std::move(file));
    }
  }

  void options() {
    for (auto& [name, in] : root_.named_tables("options")) {
      OptionSpec option;
      option.help = in.string("help").value_or("");
      option.values = in.strings("values");
      option.args = in.strings("args");
      for (const std::string& word : option.args) check_argument(in, "args", word, "value");
      option.env = in.string_map("env");
      for (const auto& [key, value] : option.env) check_template(in, "env", value, "value");
      option.file = in.string("file").value_or("");
      option.pointer = in.string("pointer").value_or("");
      option.json_value = in.one_of("type", {"string", "json"}) == "json";
      if (option.file.empty() != option.pointer.empty()) {
        in.mistake("pointer", "goes with file: which key of which file to set");
      }
      check_edited(in, option.file, option.pointer);
      if (option.file.empty() && option.args.empty() && option.env.empty()) {
        in.mistake("args", "an option must change something: args, env, or file and pointer");
      }
      spec_.options.emplace(name, std::move(option));
    }
  }

  void mcp() {
    auto in = root_.table("mcp");
    if (!in) return;
    McpSpec mcp;
    mcp.file = in->required_string("file");
    mcp.pointer = in->required_string("pointer");
    mcp.value = in->required_string("value");
    check_template(*in, "value", mcp.value);
    check_edited(*in, mcp.file, mcp.pointer);
    spec_.mcp = std::move(mcp);
  }

  // What is set in one of the spec's files.
  void check_edited(TomlReader& in, const std::string& file, const std::string& pointer) {
    if (!pointer.empty() && pointer.front() != '/') {
      in.mistake("pointer", "must be a JSON pointer, as in /agent/build/prompt");
    }
    if (!file.empty() && std::none_of(spec_.files.begin(), spec_.files.end(),
                                      [&](const FileSpec& known) { return known.path == file; })) {
      in.mistake("file", "is the path of none of the [[files]]");
    }
  }

  void events() {
    for (TomlReader& in : root_.tables("events")) {
      EventRule rule;
      rule.match = in.string_map("match");
      if (rule.match.empty()) in.mistake("match", R"(is required, as in { "/type" = "text" })");
      rule.kind = in.one_of("kind", kEventKinds).value_or(rule.kind);
      if (!in.has("kind")) in.mistake("kind", "is required");
      rule.text = in.string("text").value_or("");
      rule.tool = in.string("tool").value_or("");
      rule.id = in.string("id").value_or("");
      rule.status = in.string("status").value_or("");
      spec_.events.push_back(std::move(rule));
    }
  }

  void artifacts() {
    for (auto& [name, in] : root_.named_tables("artifacts")) {
      ArtifactSpec artifact;
      artifact.name = name;
      if (!is_valid_id(name)) in.mistake("", "must be named by letters, digits, '.', '-' or '_'");
      artifact.path = in.required_string("path");
      check_template(in, "path", artifact.path);
      artifact.required = in.boolean("required").value_or(false);
      artifact.max_bytes =
          static_cast<size_t>(in.integer("max_bytes", 1, 256 << 20).value_or(16 << 20));
      spec_.artifacts.push_back(std::move(artifact));
    }
  }

  void gate() {
    auto in = root_.table("gate");
    if (!in) return;
    spec_.session_headers.session = in->string("session_header").value_or("");
    spec_.session_headers.parent = in->string("parent_session_header").value_or("");
    spec_.resend.window = in->seconds("resend_window_s", 0s, 1h).value_or(spec_.resend.window);
    spec_.resend.ignore_fields = in->strings("resend_ignores");
    for (TomlReader& row : in->tables("purposes")) {
      gate::PurposeRule rule;
      rule.purpose = row.one_of("purpose", llm::kPurposes).value_or(rule.purpose);
      if (!row.has("purpose")) row.mistake("purpose", "is required");
      rule.has_tools = row.boolean("has_tools");
      rule.has_parent_session = row.boolean("has_parent_session");
      rule.system_contains = row.string("system_contains").value_or("");
      rule.canned = row.string("canned");
      spec_.purposes.push_back(std::move(rule));
    }
  }

  TomlReader root_;
  Spec spec_;
  std::set<std::string> known_;
};

}  // namespace

std::string_view to_string(EventKind kind) {
  constexpr std::string_view names[] = {"text", "reasoning", "tool", "step", "error", "done"};
  return names[static_cast<size_t>(kind) % 6];
}

const DialectSpec* Spec::dialect(llm::Dialect wanted) const {
  for (const DialectSpec& row : dialects) {
    if (row.dialect == wanted) return &row;
  }
  return nullptr;
}

const std::vector<std::string>& placeholder_names() {
  static const std::vector<std::string> names = {
      "base_url",   "bundle", "context_window", "gate",    "home",    "key",
      "max_output", "model",  "program",        "rollout", "version", "workdir"};
  return names;
}

TemplateValues only(TemplateValues values) {
  for (const std::string& name : placeholder_names()) values.emplace(name, "");
  return values;
}

bool uses(const Spec& spec, std::string_view placeholder,
          const std::map<std::string, std::string>& options) {
  const auto names = [&](std::string_view text) {
    return names_in(text).contains(std::string(placeholder));
  };
  const auto any_names = [&](const std::vector<std::string>& words,
                             const std::map<std::string, std::string>& env) {
    return std::ranges::any_of(words, names) ||
           std::ranges::any_of(env | std::views::values, names);
  };
  return any_names(spec.command, spec.env) ||
         std::ranges::any_of(spec.files, names, &FileSpec::content) ||
         std::ranges::any_of(spec.options, [&](const auto& option) {
           return options.contains(option.first) &&
                  any_names(option.second.args, option.second.env);
         });
}

Result<Spec> parse_spec(std::string_view toml, std::string source) {
  SLUICE_TRY(TomlReader root, TomlReader::parse(toml, source));
  SLUICE_TRY(Spec spec, SpecParser(std::move(root), std::move(source)).parse());
  spec.digest = xxh3_128(toml).hex();
  return spec;
}

}  // namespace sluice::agent
