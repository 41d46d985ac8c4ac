#include "sluice/env/coding/catalog.h"

#include <gtest/gtest.h>

#include <map>

#include "sluice/env/python_text.h"

namespace sluice::env::coding {
namespace {

Variables variables(std::map<std::string, std::string> values) {
  return [values = std::move(values)](const std::string& name) {
    const auto found = values.find(name);
    return found == values.end() ? std::string() : found->second;
  };
}

std::string error_of(const Result<Endpoint>& endpoint) {
  return endpoint ? "" : endpoint.error().message;
}

TEST(Catalog, what_is_given_comes_before_variables_and_these_before_defaults) {
  const auto set = variables({{"OPENAI_BASE_URL", "http://variable"}, {"OPENAI_API_KEY", "k1"}});
  auto endpoint = resolve_endpoint("openai", {}, set);
  ASSERT_TRUE(endpoint);
  EXPECT_EQ(endpoint->base_url, "http://variable/v1");
  EXPECT_EQ(endpoint->key, "k1");
  EXPECT_EQ(endpoint->model, "gpt-4o-mini");
  EXPECT_FALSE(endpoint->thinking_off);

  Endpoint given;
  given.base_url = "http://given/v1///";
  given.key = "k2";
  given.model = "m";
  endpoint = resolve_endpoint("openai", given, set);
  ASSERT_TRUE(endpoint);
  EXPECT_EQ(endpoint->base_url, "http://given/v1");
  EXPECT_EQ(endpoint->key, "k2");
  EXPECT_EQ(endpoint->model, "m");
}

TEST(Catalog, the_servers_key_goes_with_the_servers_url_alone) {
  const auto set = variables({{"OPENAI_API_KEY", "sk-secret"},
                              {"VLLM_URL", "http://gpu:8000"},
                              {"VLLM_API_KEY", "sk-secret"},
                              {"HF_ROUTER_BASE_URL", "http://mine/v1"}});
  Endpoint given;
  // Its own words for the same URL.
  for (const char* same :
       {"https://api.openai.com/v1", "https://api.openai.com/v1/", "https://api.openai.com"}) {
    given.base_url = same;
    const auto endpoint = resolve_endpoint("openai", given, set);
    ASSERT_TRUE(endpoint) << same;
    EXPECT_EQ(endpoint->key, "sk-secret");
  }
  for (const char* other :
       {"https://evil.example/v1", "http://api.openai.com/v1", "https://api.openai.com/v1/x",
        "https://api.openai.com.evil.example/v1", "https://api.openai.com@evil.example/v1"}) {
    given.base_url = other;
    const std::string said = error_of(resolve_endpoint("openai", given, set));
    EXPECT_EQ(said,
              "openai: this server's own key goes to its own base_url alone; pass api_key=... with "
              "a base_url of yours")
        << other;
  }
  given.base_url = "https://evil.example/v1";
  EXPECT_NE(error_of(resolve_endpoint("vllm", given, set)), "");
  given.key = "mine";
  const auto own = resolve_endpoint("vllm", given, set);
  ASSERT_TRUE(own);
  EXPECT_EQ(own->key, "mine");
  // What stands for a key where none is needed is no secret.
  const auto keyless = resolve_endpoint("vllm", {"http://theirs:1", "", "", false}, variables({}));
  ASSERT_TRUE(keyless);
  EXPECT_EQ(keyless->key, "intercepted");
  EXPECT_EQ(configured_urls(set),
            (std::vector<std::string>{"http://gpu:8000/v1", "https://api.openai.com/v1",
                                      "http://mine/v1"}));
}

TEST(Catalog, defaults_are_openenvs) {
  const auto vllm = resolve_endpoint("vllm", {}, variables({{"VLLM_URL", "http://gpu:8000/"}}));
  ASSERT_TRUE(vllm);
  EXPECT_EQ(vllm->base_url, "http://gpu:8000/v1");
  EXPECT_EQ(vllm->key, "intercepted");
  EXPECT_EQ(vllm->model, "Qwen/Qwen3.5-4B");
  EXPECT_TRUE(vllm->thinking_off);
  const auto openai = resolve_endpoint("openai", {}, variables({{"OPENAI_API_KEY", "k"}}));
  ASSERT_TRUE(openai);
  EXPECT_EQ(openai->base_url, "https://api.openai.com/v1");
  EXPECT_EQ(openai->model, "gpt-4o-mini");
  EXPECT_FALSE(openai->thinking_off);
  const auto router =
      resolve_endpoint("hf_router", {}, variables({{"HF_ROUTER_API_KEY", "hf-key"}}));
  ASSERT_TRUE(router);
  EXPECT_EQ(router->base_url, "https://router.huggingface.co/v1");
  EXPECT_EQ(router->model, "Qwen/Qwen3-4B-Instruct-2507:nscale");
  EXPECT_FALSE(router->thinking_off);
}

TEST(Catalog, every_kind_has_its_variables) {
  struct Case {
    const char *kind, *base_url, *key, *model;
  };
  const Case cases[] = {
      {"vllm", "VLLM_URL", "VLLM_API_KEY", "VLLM_MODEL"},
      {"openai", "OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL"},
      {"hf_router", "HF_ROUTER_BASE_URL", "HF_ROUTER_API_KEY", "HF_ROUTER_MODEL"}};
  for (const Case& c : cases) {
    const auto endpoint = resolve_endpoint(
        c.kind, {},
        variables({{c.base_url, "http://mine:1/x"}, {c.key, "my-key"}, {c.model, "my-model"}}));
    ASSERT_TRUE(endpoint) << c.kind;
    EXPECT_EQ(endpoint->base_url, "http://mine:1/x/v1") << c.kind;
    EXPECT_EQ(endpoint->key, "my-key") << c.kind;
    EXPECT_EQ(endpoint->model, "my-model") << c.kind;
  }
}

TEST(Catalog, says_what_is_missing_and_where_it_may_be_set) {
  const auto none = variables({});
  EXPECT_EQ(error_of(resolve_endpoint("vllm", {}, none)),
            "vllm: no base_url (set VLLM_URL env var or pass base_url=...)");
  EXPECT_EQ(error_of(resolve_endpoint("hf_router", {}, none)),
            "hf_router: no api_key (set HF_ROUTER_API_KEY env var or pass api_key=...)");
  EXPECT_EQ(error_of(resolve_endpoint("it's", {}, none)),
            "unknown endpoint kind: \"it's\"; expected one of ('vllm', 'openai', 'hf_router')");
}

TEST(Catalog, its_summary_has_every_row_as_openenvs_page_reads_it) {
  EXPECT_EQ(python::compact(catalog_summary(variables({{"HF_ROUTER_API_KEY", "k"}}))),
            R"([{"kind":"vllm","base_url_env":"VLLM_URL","api_key_env":"VLLM_API_KEY",)"
            R"("model_env":"VLLM_MODEL","default_base_url":null,)"
            R"("default_model":"Qwen/Qwen3.5-4B","disable_thinking_default":true,)"
            R"("configured":false},)"
            R"({"kind":"openai","base_url_env":"OPENAI_BASE_URL","api_key_env":"OPENAI_API_KEY",)"
            R"("model_env":"OPENAI_MODEL","default_base_url":"https://api.openai.com/v1",)"
            R"("default_model":"gpt-4o-mini","disable_thinking_default":false,)"
            R"("configured":false},)"
            R"({"kind":"hf_router","base_url_env":"HF_ROUTER_BASE_URL",)"
            R"("api_key_env":"HF_ROUTER_API_KEY","model_env":"HF_ROUTER_MODEL",)"
            R"("default_base_url":"https://router.huggingface.co/v1",)"
            R"("default_model":"Qwen/Qwen3-4B-Instruct-2507:nscale",)"
            R"("disable_thinking_default":false,"configured":true}])");
}

TEST(Catalog, its_summary_holds_no_key) {
  const json::Array rows = catalog_summary(variables({{"OPENAI_API_KEY", "sk-secret"}}));
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(rows[0].at("configured"), false);
  EXPECT_EQ(rows[1].at("configured"), true);
  EXPECT_EQ(python::compact(json::Value(rows)).find("sk-secret"), std::string::npos);
}

TEST(Catalog, tuples_are_written_as_python_does) {
  EXPECT_EQ(python_tuple({}), "()");
  EXPECT_EQ(python_tuple({"pi"}), "('pi',)");
  EXPECT_EQ(python_tuple({"opencode", "pi"}), "('opencode', 'pi')");
}

}  // namespace
}  // namespace sluice::env::coding
