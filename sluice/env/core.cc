#include "sluice/env/core.h"

#include <fmt/format.h>

#include "sluice/env/documents.h"
#include "sluice/env/python_text.h"

namespace sluice::env {
namespace {

SessionLimits limits_of(const ServerOptions& options) {
  SessionLimits limits;
  limits.sessions = options.max_sessions;
  limits.stateless = options.max_stateless_calls;
  limits.idle_timeout = options.session_timeout;
  limits.http_ttl = options.http_session_ttl;
  return limits;
}

json::Object for_step(const Tools& tools) {
  json::Array list;
  for (const Tool& tool : tools) {
    list.push_back(json::Object{{"name", tool.name},
                                {"description", tool.description},
                                {"input_schema", tool.input_schema}});
  }
  return {{"tools", std::move(list)}};
}

json::Object for_mcp(const Tools& tools) {
  json::Array list;
  for (const Tool& tool : tools) {
    json::Object row;
    row["name"] = tool.name;
    if (!tool.title.empty()) row["title"] = tool.title;
    row["description"] = tool.description;
    row["inputSchema"] = tool.input_schema;
    if (tool.output_schema) row["outputSchema"] = *tool.output_schema;
    if (!tool.meta.empty()) row["meta"] = tool.meta;
    list.push_back(std::move(row));
  }
  return {{"tools", std::move(list)}};
}

}  // namespace

Core::Core(net::Shard& s, EnvironmentFactory& f, ServerOptions o, Access a)
    : shard(s),
      factory(f),
      options(std::move(o)),
      access(std::move(a)),
      metrics(options.metrics ? options.metrics : std::make_shared<Metrics>()),
      log(options.log),
      sessions(s, f, limits_of(options), options.log, *metrics) {}

std::shared_ptr<const ToolTexts> Core::tools() {
  const auto source = factory.tools();
  if (tools_ && tools_->source == source) return tools_;
  auto texts = std::make_shared<ToolTexts>();
  texts->source = source ? source : std::make_shared<const Tools>();
  for (const Tool& tool : *texts->source) {
    // What orchestrates an episode is no tool, whatever an environment says.
    if (!is_reserved_tool_name(tool.name)) texts->by_name.emplace(tool.name, &tool);
  }
  Tools served;
  for (const Tool& tool : *texts->source) {
    if (texts->by_name.contains(tool.name)) served.push_back(tool);
  }
  texts->for_step = python::compact(for_step(served));
  texts->for_mcp = python::compact(for_mcp(served));
  if (source) tools_ = texts;
  return texts;
}

void Core::count_request(std::string_view route, int status) {
  const auto key = std::make_pair(std::string(route), status);
  auto found = requests_.find(key);
  if (found == requests_.end()) {
    auto counter = metrics->counter("sluice_env_requests_total", "HTTP requests and handshakes.",
                                    {{"route", key.first}, {"status", std::to_string(status)}});
    found = requests_.emplace(key, counter).first;
  }
  found->second.add();
}

void Core::count_call(std::string_view kind, std::string_view outcome) {
  const auto key = std::make_pair(std::string(kind), std::string(outcome));
  auto found = calls_.find(key);
  if (found == calls_.end()) {
    auto counter = metrics->counter("sluice_env_calls_total", "Resets, steps and tool calls.",
                                    {{"kind", key.first}, {"outcome", key.second}});
    found = calls_.emplace(key, counter).first;
  }
  found->second.add();
}

net::HttpResponse detail_response(int status, std::string_view message) {
  return net::json_response(status, python::compact(json::Object{{"detail", message}}));
}

net::HttpResponse invalid_response(const Mistakes& problems) {
  return net::json_response(422, python::compact(json::Object{{"detail", to_json(problems)}}));
}

json::Object schemas_of(const EnvironmentInfo& info) {
  const json::Object& known = tool_schemas();
  const auto or_known = [&](const json::Object& own, const char* name) {
    return own.empty() ? json::Value(known.at(name)) : json::Value(own);
  };
  return {{"action", or_known(info.action_schema, "action")},
          {"observation", or_known(info.observation_schema, "observation")},
          {"state", or_known(info.state_schema, "state")}};
}

json::Object metadata_of(EnvironmentFactory& factory) {
  const EnvironmentInfo& info = factory.info();
  const auto or_null = [](const std::string& text) {
    return text.empty() ? json::Value(nullptr) : json::Value(text);
  };
  json::Object out{{"name", info.class_name},
                   {"description",
                    info.description.empty() ? info.class_name + " environment" : info.description},
                   {"readme_content", nullptr},
                   {"version", info.version},
                   {"author", or_null(info.author)},
                   {"documentation_url", or_null(info.documentation_url)}};
  for (const auto& field : factory.extra_metadata()) {
    if (!out.contains(field.key())) out[field.key()] = field.value();
  }
  return out;
}

}  // namespace sluice::env
