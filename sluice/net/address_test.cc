#include "sluice/net/address.h"

#include <gtest/gtest.h>

namespace sluice::net {
namespace {

TEST(Address, what_is_reached_by_it) {
  for (const char* inner :
       {"127.0.0.1", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1",
        "0.0.0.0", "192.0.2.1", "198.18.0.1", "::1", "::", "fc00::1", "fd12::1", "::ffff:10.0.0.1",
        "::ffff:8.8.8.8", "64:ff9b::a00:1", "2002:a00:1::", "2001::1", "2001:db8::1"}) {
    EXPECT_EQ(scope_of(inner), AddressScope::kPrivate) << inner;
    EXPECT_FALSE(is_public_address(inner)) << inner;
  }
  for (const char* outer : {"8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "192.169.0.1",
                            "2606:4700:4700::1111", "2a00:1450:4001::1"}) {
    EXPECT_EQ(scope_of(outer), AddressScope::kPublic) << outer;
  }
  for (const char* never :
       {"169.254.169.254", "224.0.0.1", "255.255.255.255", "fe80::1", "febf::1", "fe80::1%2",
        "ff02::1", "::ffff:169.254.169.254", "", "example.org", "1.2.3", "0x7f.1"}) {
    EXPECT_EQ(scope_of(never), AddressScope::kLink) << never;
  }
}

}  // namespace
}  // namespace sluice::net
