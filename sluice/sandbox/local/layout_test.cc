#include "sluice/sandbox/local/layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace sluice::sandbox::local {
namespace {

using Kind = Step::Kind;

TEST(LayoutTest, NothingOfTheHostIsWritable) {
  for (const Users users : {Users::kMany, Users::kOne}) {
    for (const Step& step : base_layout(users)) {
      if (step.kind != Kind::kBind) continue;
      const bool device = (step.flags & Step::kDevices) != 0;
      EXPECT_TRUE(device || (step.flags & Step::kReadOnly) != 0) << step.path;
      if (device) EXPECT_TRUE(step.text.starts_with("/dev/")) << step.path;
      if (device) EXPECT_NE(step.flags & Step::kNoExec, 0) << step.path;
    }
  }
}

TEST(LayoutTest, NothingThatMayHoldSecretsIsShown) {
  for (const Step& step : base_layout(Users::kMany)) {
    if (step.kind != Kind::kBind || (step.flags & Step::kInside) != 0) continue;
    for (const char* secret : {"/etc/shadow", "/etc/ssl/private", "/etc/ssh", "/root", "/home",
                               "/run", "/var", "/tmp", "/etc/passwd", "/etc/environment"}) {
      EXPECT_FALSE(step.text == secret || step.text.starts_with(std::string(secret) + "/"))
          << step.text;
      // Nor by a directory above it.
      EXPECT_FALSE(std::string(secret).starts_with(step.text + "/")) << step.text;
    }
  }
}

TEST(LayoutTest, EveryStepHasItsParentBeforeIt) {
  Options options;
  options.bundles = {{"/usr", "/opt/a/b/c"}, {"/usr", "/opt/a/d"}};
  std::vector<Step> steps = base_layout(Users::kMany);
  auto extra = extra_layout(options, Users::kMany);
  ASSERT_TRUE(extra);
  steps.insert(steps.end(), extra->begin(), extra->end());
  std::set<std::string> made;
  for (const Step& step : steps) {
    const size_t slash = step.path.rfind('/');
    // What the kernel shows in /proc is there with it.
    if (slash != std::string::npos && !step.path.starts_with("proc/")) {
      EXPECT_TRUE(made.contains(step.path.substr(0, slash))) << step.path;
    }
    made.insert(step.path);
  }
}

TEST(LayoutTest, TheVerifiersPlaceIsRootsAndAFilesystemOfItsOwn) {
  for (const auto& steps : {base_layout(Users::kMany), overlay_layout("", "", Users::kMany)}) {
    const auto made = std::find_if(steps.begin(), steps.end(),
                                   [](const Step& step) { return step.path == ".verifier"; });
    ASSERT_NE(made, steps.end());
    EXPECT_EQ(made->uid, 0u);
    EXPECT_EQ(made->mode, 0700u);
    EXPECT_EQ((made + 1)->kind, Kind::kApart);
    EXPECT_EQ((made + 1)->path, ".verifier");
  }
}

TEST(LayoutTest, WithOneUserNothingIsGivenToAnother) {
  for (const Step& step : base_layout(Users::kOne)) {
    EXPECT_EQ(step.uid, 0u) << step.path;
  }
  const auto steps = base_layout(Users::kOne);
  // He could replace what other commands trust.
  EXPECT_TRUE(std::any_of(steps.begin(), steps.end(), [](const Step& step) {
    return step.kind == Kind::kBind && step.path == "etc" && (step.flags & Step::kReadOnly) != 0;
  }));
}

TEST(LayoutTest, OnlyAnOpenNetworkHasTheHostsNameServers) {
  auto has_resolver = [](Network network) {
    Options options;
    options.network = network;
    const auto steps = extra_layout(options, Users::kMany);
    return std::any_of(steps->begin(), steps->end(), [](const Step& step) {
      return step.kind == Kind::kBind && step.text == "/etc/resolv.conf";
    });
  };
  EXPECT_FALSE(has_resolver(Network::kNone));
  EXPECT_TRUE(has_resolver(Network::kOpen));
}

}  // namespace
}  // namespace sluice::sandbox::local
