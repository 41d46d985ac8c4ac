#include "sluice/upstream/targets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sluice::upstream {
namespace {

using ::testing::HasSubstr;

net::Url url(const std::string& text) {
  return *net::Url::parse(text);
}

// Whether a URL of that host may lead to the address.
bool leads(const Targets& targets, const std::string& base_url, const std::string& address) {
  const net::AddressCheck check = targets.check(url(base_url));
  return !check || check(address);
}

TEST(Targets, inner_addresses_are_refused_whatever_the_name_that_leads_there) {
  const Targets targets(Targets::Private::kRefused);
  EXPECT_TRUE(leads(targets, "https://model.example/v1", "8.8.8.8"));
  for (const char* inner : {"127.0.0.1", "10.0.0.5", "::1", "::ffff:127.0.0.1", "169.254.169.254",
                            "fe80::1", "::ffff:169.254.169.254"}) {
    EXPECT_FALSE(leads(targets, "https://model.example/v1", inner)) << inner;
  }
  const auto said = targets.check(url("http://model.example"))("10.0.0.5");
  EXPECT_EQ(said.error().code, ErrorCode::kPermissionDenied);
  EXPECT_THAT(said.error().message, HasSubstr("model.example is 10.0.0.5, a private address"));
}

TEST(Targets, where_private_ones_are_allowed_those_of_the_link_are_not) {
  const Targets targets(Targets::Private::kAllowed);
  EXPECT_TRUE(leads(targets, "http://model.example", "127.0.0.1"));
  EXPECT_TRUE(leads(targets, "http://model.example", "192.168.1.1"));
  EXPECT_FALSE(leads(targets, "http://model.example", "169.254.169.254"));
  EXPECT_FALSE(leads(targets, "http://model.example", "::ffff:169.254.169.254"));
}

TEST(Targets, hosts_that_are_allowed_lead_anywhere) {
  Targets targets(Targets::Private::kRefused);
  ASSERT_TRUE(targets.allow("10.0.0.5:8000"));
  ASSERT_TRUE(targets.allow("GPU.example"));
  ASSERT_TRUE(targets.allow("[fd00::5]:8000"));
  targets.allow(url("https://configured.example/v1"));
  EXPECT_TRUE(leads(targets, "http://10.0.0.5:8000/v1", "10.0.0.5"));
  EXPECT_FALSE(leads(targets, "http://10.0.0.5:22/v1", "10.0.0.5")) << "another port";
  EXPECT_TRUE(leads(targets, "http://gpu.EXAMPLE:1/v1", "169.254.0.1"));
  EXPECT_FALSE(leads(targets, "http://x.gpu.example/v1", "10.0.0.5")) << "another host";
  EXPECT_TRUE(leads(targets, "http://[fd00::5]:8000", "fd00::5"));
  EXPECT_TRUE(leads(targets, "https://configured.example/other", "10.0.0.5"));
  EXPECT_FALSE(leads(targets, "http://configured.example", "10.0.0.5")) << "port 80";
  for (const char* none : {"", "a/b", "http://a", "a:0", "user@a", "a b", "a?b"}) {
    EXPECT_FALSE(targets.allow(none)) << none;
  }
}

TEST(Targets, a_url_is_judged_by_what_its_host_is_looked_up_as) {
  const Targets targets(Targets::Private::kRefused);
  // Other spellings of 127.0.0.1 are names here, and addresses to who looks them up.
  for (const char* inner : {"http://localhost/v1", "http://127.1", "http://2130706433:80",
                            "http://0x7f000001", "http://[::1]:1", "http://169.254.169.254"}) {
    const auto looked = targets.look(inner);
    ASSERT_FALSE(looked) << inner;
    EXPECT_EQ(looked.error().code, ErrorCode::kPermissionDenied) << looked.error().message;
  }
  EXPECT_TRUE(targets.look("http://8.8.8.8/v1"));
  EXPECT_TRUE(targets.look("http://no-such-host.invalid/v1")) << "whoever connects tells that";
  EXPECT_EQ(targets.look("ftp://8.8.8.8").error().code, ErrorCode::kInvalidArgument);
  Targets allowing(Targets::Private::kRefused);
  ASSERT_TRUE(allowing.allow("localhost"));
  EXPECT_TRUE(allowing.look("http://localhost/v1"));
}

}  // namespace
}  // namespace sluice::upstream
