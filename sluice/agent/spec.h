// Agent specs: everything Sluice knows about one command-line agent, as data. The driver has no
// per-agent branches; what an agent needs that no other does is a new field here, never its name in
// a C++ file. The files are described in docs/agent-specs.md.
//
// Plain values; any thread.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/agent/template.h"
#include "sluice/base/core/deadline.h"
#include "sluice/base/core/result.h"
#include "sluice/gate/registration.h"
#include "sluice/llm/call.h"

namespace sluice::agent {

// The agent as a relocatable directory, made once on the host from npm packages and mounted
// read-only into sandboxes.
struct BundleSpec {
  std::vector<std::string> npm;              // "opencode-ai@1.18.33": pinned; none: files alone
  std::vector<std::string> install_scripts;  // packages whose install scripts must run
  std::vector<std::string> keep;             // what remains of the tree; empty: all of it
  // Small programs of the spec's own beside what npm made, by their paths in the bundle: for agents
  // that are no program by themselves (a script, and the node that it needs).
  std::map<std::string, std::string> files;
};

// For backends that cannot mount a bundle: commands that install the agent inside. An agent that
// has neither is a program of the sandbox's, or of its spec's files.
struct InstallSpec {
  std::vector<std::string> commands;  // each run by a shell as the setup user; none: it is there
  std::string program;                // what {program} is then
};

enum class PromptBy : uint8_t {
  kStdin,     // the exact text, then end of file
  kArgument,  // the last argument
};

struct FileSpec {
  std::string path;     // template
  std::string content;  // template
  uint32_t mode = 0600;
};

// What a task's agent option (temperature, system_prompt, ...) changes when it is given.
struct OptionSpec {
  std::string help;
  std::vector<std::string> values;         // the only ones; empty: any
  std::vector<std::string> args;           // templates; {value} is the option's value
  std::map<std::string, std::string> env;  // templates
  std::string file;                        // with `pointer`: sets this key of that JSON file
  std::string pointer;                     // RFC 6901, objects only
  // In a file: whether the value is put in as a JSON string or as JSON.
  bool json_value = false;
};

// How the agent is told of an MCP server over HTTP: a key of one of its JSON files.
struct McpSpec {
  std::string file;     // template, the path of one of the files
  std::string pointer;  // RFC 6901, objects only
  std::string value;    // template of JSON; the server is at {gate}/mcp
};

struct DialectSpec {
  llm::Dialect dialect = llm::Dialect::kChat;
  std::string path;     // {base_url} is {gate} followed by this
  TemplateValues vars;  // further placeholders
};

enum class EventKind : uint8_t { kText, kReasoning, kTool, kStep, kError, kDone };
std::string_view to_string(EventKind kind);

// Recognises one kind of line in the agent's JSONL output.
struct EventRule {
  std::map<std::string, std::string> match;  // JSON pointer to the text it must have there
  EventKind kind = EventKind::kText;
  std::string text, tool, id, status;  // JSON pointers, "" if the event has none; status: or a word
};

struct ArtifactSpec {
  std::string name;
  std::string path;  // template
  bool required = false;
  size_t max_bytes = 16 * 1024 * 1024;
};

struct Spec {
  std::string name;
  std::string version;
  std::string description;
  std::string source;  // the file it came from, for people
  std::string digest;  // of its text

  std::optional<BundleSpec> bundle;
  std::optional<InstallSpec> install;
  std::string program;             // {program} with a bundle: template using {bundle}
  std::vector<std::string> needs;  // programs the sandbox must have ("git")

  std::vector<std::string> command;           // templates
  std::vector<std::string> approvals_bypass;  // appended when a rollout asks for it
  PromptBy prompt = PromptBy::kStdin;
  // With kArgument: the prompt's leading characters of these go by stdin instead, for agents that
  // would take such an argument for an option or a file, and that put stdin in front of it.
  std::string prompt_lead;
  std::map<std::string, std::string> env;  // templates
  std::vector<FileSpec> files;
  std::map<std::string, OptionSpec> options;
  std::optional<McpSpec> mcp;  // none: host tools cannot be offered to it
  Duration timeout = std::chrono::minutes(10);

  std::vector<DialectSpec> dialects;  // the first is the default

  std::vector<EventRule> events;
  // Where success is read from: the exit code alone, or what the events say last as well (agents
  // that always exit 0); see EventReader::success().
  bool success_from_events = false;

  std::vector<ArtifactSpec> artifacts;

  gate::SessionHeaders session_headers;
  gate::ResendRules resend;
  std::vector<gate::PurposeRule> purposes;

  const DialectSpec* dialect(llm::Dialect dialect) const;
  std::string title() const { return name + " " + version; }
};

// `source` is what errors call the file: "my-agent.toml:12: run.command: is required".
Result<Spec> parse_spec(std::string_view toml, std::string source);

// The placeholders that every spec may use, besides its dialects' own.
const std::vector<std::string>& placeholder_names();
// These values, and every other placeholder empty.
TemplateValues only(TemplateValues values);

// Whether an agent so described, and started with these options, is told the placeholder's value:
// by its command, its environment or its files.
bool uses(const Spec& spec, std::string_view placeholder,
          const std::map<std::string, std::string>& options = {});

}  // namespace sluice::agent
