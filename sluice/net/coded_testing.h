// For tests: bodies in each content coding, as other programs wrote them.
#pragma once

#include <string_view>
#include <vector>

#include "sluice/base/core/bytes.h"

namespace sluice::net::testing {

struct Coded {
  std::string_view coding;
  Bytes bytes;
};

inline constexpr std::string_view kCodedQuestion =
    R"({"model":"m","messages":[{"role":"user","content":"question 0"}]})";

inline std::vector<Coded> coded_question() {
  return {
      {"gzip",
       *from_base64("H4sIAAAAAAACA6tWys1PSc1RslLKVdJRyk0tLk5MTy1WsoquVirKz0kFipcWpxYBpZLz80pS80qA"
                    "AoWlqcUlmfl5CgZKtbG1AMes9uVBAAAA")},
      {"zstd",
       *from_base64("KLUv/QRozQEAEkQNEaDthZ1U1rcPf1Qd5vak/gsDk0wLwFqC++ishuyQNePg941WX7VnOdR7VHa/"
                    "HLysVj9tWQYANyWPqQ==")},
      {"br",
       *from_base64("G0AAQJwHdiwDr7jDYdp4KbK1VzBt1dVXLDrgkBOBW1sgn0dcZzadFUatIk9bZmQqgNdaTgo=")},
  };
}

// 100,000 letters x.
inline std::vector<Coded> coded_filler() {
  return {
      {"gzip",
       *from_base64("H4sIAAAAAAACA+3BMQEAAADCoNqLbw0PoAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
                    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
                    "AAAAAAAAAIBXA3ERB/6ghgEA")},
      {"zstd", *from_base64("KLUv/QRoTQAACHgBAJyGORACWzRbAg==")},
      {"br", *from_base64("W5+GgV8CLx4LBLL8AgA=")},
  };
}

}  // namespace sluice::net::testing
