#include "sluice/env/coding/coding.h"

#include <fmt/format.h>

#include <utility>

#include "sluice/base/core/check.h"
#include "sluice/base/id.h"
#include "sluice/env/coding/desk.h"
#include "sluice/env/coding/modes.h"
#include "sluice/env/coding/request.h"
#include "sluice/env/coding/templates.h"
#include "sluice/env/python_text.h"

namespace sluice::env::coding {

struct CodingFactory::State {
  State(CodingParts p, CodingOptions o)
      : parts(std::move(p)),
        options(std::move(o)),
        registry(options.agents_directory),
        desk(parts, options) {}

  const CodingParts parts;
  const CodingOptions options;
  const agent::Registry registry;
  RolloutDesk desk;
  EnvironmentInfo info;
  std::vector<std::string> named;  // in the text of `tools`
  std::shared_ptr<const Tools> tools;
};

namespace {

// What one session has: the books of its episode.
class CodingEnvironment final : public Environment {
 public:
  CodingEnvironment(RolloutDesk* desk, const agent::Registry& registry, const Variables& variables)
      : desk_(desk), registry_(registry), variables_(variables) {}

  awaitable<Result<Observation>> reset(json::Object arguments, CallContext*) override {
    books_ = Books();
    if (const auto id = json::get_string(arguments, "episode_id")) books_.episode = *id;
    Observation ready;
    ready.metadata["status"] = "ready";
    ready.metadata["message"] = "Coding agent environment ready. Call the tool run_rollout.";
    co_return ready;
  }

  awaitable<Result<ToolResult>> call_tool(std::string, json::Object arguments,
                                          CallContext* context) override {
    SLUICE_CO_TRY(RolloutRequest request, parse_request(arguments, registry_, variables_));
    json::Object result =
        co_await RolloutDesk::run(desk_, std::move(request), books_.episode, context);
    ++books_.completed;
    books_.reward = result["reward"];
    books_.task = or_null(result["task_id"]);
    books_.sandbox = or_null(result["sandbox_id"]);
    ToolResult out;
    out.text = python::compact(json::Value(std::move(result)));
    co_return out;
  }

  Result<json::Object> state() override {
    json::Object now;
    now["episode_id"] = books_.episode;
    now["step_count"] = 0;
    now["rollouts_completed"] = books_.completed;
    now["last_reward"] = books_.reward;
    now["last_task_id"] = books_.task;
    now["last_sandbox_id"] = books_.sandbox;
    return now;
  }

 private:
  struct Books {
    std::string episode = new_uuid();
    int64_t completed = 0;
    json::Value reward, task, sandbox;
  };

  static json::Value or_null(const json::Value& text) {
    return text.is_string() && text.get_string().empty() ? json::Value(nullptr) : text;
  }

  RolloutDesk* const desk_;
  const agent::Registry& registry_;
  const Variables& variables_;
  Books books_;
};

}  // namespace

CodingFactory::CodingFactory(CodingParts parts, CodingOptions options)
    : state_(std::make_unique<State>(std::move(parts), std::move(options))) {
  CHECK(state_->options.variables && state_->options.upstream);
  EnvironmentInfo& info = state_->info;
  info.name = "coding_agent_env";
  info.class_name = "CodingAgentEnvironment";
  info.sessions = EnvironmentInfo::Sessions::kMany;
  info.calls = EnvironmentInfo::Calls::kOverlapping;
  info.step_timeout = state_->options.step_timeout;
}

CodingFactory::~CodingFactory() = default;

const EnvironmentInfo& CodingFactory::info() const {
  return state_->info;
}

std::shared_ptr<const Tools> CodingFactory::tools() {
  std::vector<std::string> names = agent_names(state_->registry);
  if (!state_->tools || names != state_->named) {
    state_->tools = std::make_shared<const Tools>(Tools{rollout_tool(names)});
    state_->named = std::move(names);
  }
  return state_->tools;
}

awaitable<Result<std::unique_ptr<Environment>>> CodingFactory::create(std::string) {
  std::unique_ptr<Environment> made = std::make_unique<CodingEnvironment>(
      &state_->desk, state_->registry, state_->options.variables);
  co_return made;
}

std::vector<Listing> CodingFactory::listings() {
  Listing agents{"Agents", {}};
  for (const agent::Registry::Entry& entry : state_->registry.list()) {
    agents.rows.push_back(entry.spec ? entry.spec->title() + ": " + entry.spec->description
                                     : entry.name + ": " + entry.spec.error().message);
  }
  Listing endpoints{"Model endpoints", {}};
  for (const EndpointKind& kind : endpoint_kinds()) {
    const bool configured = resolve_endpoint(kind.kind, {}, state_->options.variables).has_value();
    endpoints.rows.push_back(fmt::format(
        "{}: {} (set {}, {}, {})", kind.kind, configured ? "configured" : "not configured",
        kind.base_url_variable, kind.key_variable, kind.model_variable));
  }
  return {std::move(agents), std::move(endpoints)};
}

json::Object CodingFactory::extra_metadata() {
  json::Object out;
  const std::vector<std::string> agents = agent_names(state_->registry);
  out["agents"] = json::Array(agents.begin(), agents.end());
  out["modes"] = json::Array({json::Value(kBlackBox), json::Value(kGateMode)});
  out["endpoints"] = catalog_summary(state_->options.variables);
  out["backend"] = state_->parts.engine.parts().backend.name();
  const auto templates = template_names(state_->options.templates_directory);
  out["templates"] = json::Array(templates.begin(), templates.end());
  out["max_rollouts"] = state_->parts.engine.options().limits.concurrency;
  out["trainer"] = nullptr;
  if (const auto& trainer = state_->options.trainer) {
    out["trainer"] = trainer->how;
    out["trainer"].get_object()["attached"] = trainer->attached();
  }
  return out;
}

}  // namespace sluice::env::coding
