#include "sluice/base/core/error.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <map>
#include <set>

#include "sluice/base/core/check.h"

namespace sluice {
namespace {

ErrorCode code(int i) {
  return static_cast<ErrorCode>(i);
}

TEST(ErrorTest, EveryCodeHasItsOwnNameAStatusAndAnExitCode) {
  std::set<std::string_view> names;
  for (int i = 0; i < kErrorCodes; ++i) {
    names.insert(to_string(code(i)));
    EXPECT_GE(http_status(code(i)), 400);
    EXPECT_LT(http_status(code(i)), 600);
    EXPECT_NE(exit_code(code(i)), 0);
    EXPECT_NE(exit_code(code(i)), 1) << "1 is left to crashes";
  }
  EXPECT_EQ(names.size(), static_cast<size_t>(kErrorCodes));
}

// Indexed tables drift silently when a code is inserted.
TEST(ErrorTest, TheTableIsInTheEnumsOrder) {
  EXPECT_EQ(to_string(ErrorCode::kInvalidArgument), "invalid_argument");
  EXPECT_EQ(to_string(ErrorCode::kNotFound), "not_found");
  EXPECT_EQ(to_string(ErrorCode::kAlreadyExists), "already_exists");
  EXPECT_EQ(to_string(ErrorCode::kPermissionDenied), "permission_denied");
  EXPECT_EQ(to_string(ErrorCode::kUnauthenticated), "unauthenticated");
  EXPECT_EQ(to_string(ErrorCode::kFailedPrecondition), "failed_precondition");
  EXPECT_EQ(to_string(ErrorCode::kExhausted), "exhausted");
  EXPECT_EQ(to_string(ErrorCode::kTooLarge), "too_large");
  EXPECT_EQ(to_string(ErrorCode::kTimedOut), "timed_out");
  EXPECT_EQ(to_string(ErrorCode::kCancelled), "cancelled");
  EXPECT_EQ(to_string(ErrorCode::kUnavailable), "unavailable");
  EXPECT_EQ(to_string(ErrorCode::kClosed), "closed");
  EXPECT_EQ(to_string(ErrorCode::kProtocol), "protocol");
  EXPECT_EQ(to_string(ErrorCode::kUnsupported), "unsupported");
  EXPECT_EQ(to_string(ErrorCode::kIo), "io");
  EXPECT_EQ(to_string(ErrorCode::kInternal), "internal");
  EXPECT_EQ(http_status(ErrorCode::kTooLarge), 413);
  EXPECT_EQ(http_status(ErrorCode::kInternal), 500);
}

TEST(ErrorTest, ExitCodesAreTheDocumentedOnes) {
  std::map<int, int> codes;
  for (int i = 0; i < kErrorCodes; ++i) ++codes[exit_code(code(i))];
  EXPECT_EQ(codes, (std::map<int, int>{{2, 8}, {69, 7}, {130, 1}}));
  EXPECT_EQ(exit_code(ErrorCode::kCancelled), 130);
  for (const auto wrong : {ErrorCode::kInvalidArgument, ErrorCode::kAlreadyExists,
                           ErrorCode::kFailedPrecondition, ErrorCode::kUnsupported}) {
    EXPECT_EQ(exit_code(wrong), 2) << to_string(wrong);
  }
  for (const auto ours : {ErrorCode::kIo, ErrorCode::kUnavailable, ErrorCode::kInternal}) {
    EXPECT_EQ(exit_code(ours), 69) << to_string(ours);
  }
}

TEST(ErrorTest, EveryOriginHasItsName) {
  EXPECT_EQ(to_string(ErrorOrigin::kCaller), "caller");
  EXPECT_EQ(to_string(ErrorOrigin::kTask), "task");
  EXPECT_EQ(to_string(ErrorOrigin::kAgent), "agent");
  EXPECT_EQ(to_string(ErrorOrigin::kSandbox), "sandbox");
  EXPECT_EQ(to_string(ErrorOrigin::kUpstream), "upstream");
  EXPECT_EQ(to_string(ErrorOrigin::kEngine), "engine");
}

TEST(ErrorTest, WithinTellsItFromFurtherOutAndKeepsTheRest) {
  const Error inner(ErrorCode::kUnavailable, "refused", ErrorOrigin::kUpstream);
  const Error outer = inner.within("connect to x:1");
  EXPECT_EQ(outer.message, "connect to x:1: refused");
  EXPECT_EQ(outer.code, ErrorCode::kUnavailable);
  EXPECT_EQ(outer.origin, ErrorOrigin::kUpstream);
  EXPECT_TRUE(outer.retryable);
  EXPECT_EQ(inner.message, "refused");
  EXPECT_EQ(Error(inner).within("a").within("b").from(ErrorOrigin::kTask).message, "b: a: refused");
}

TEST(ErrorTest, ErrnoGivesTheClosestCodeAndTheSystemsText) {
  const Error missing = errno_error("open /x", ENOENT);
  EXPECT_EQ(missing.code, ErrorCode::kNotFound);
  EXPECT_EQ(missing.message, "open /x: No such file or directory");
  EXPECT_EQ(errno_error("f", EACCES).code, ErrorCode::kPermissionDenied);
  EXPECT_EQ(errno_error("f", EEXIST).code, ErrorCode::kAlreadyExists);
  EXPECT_EQ(errno_error("f", ETIMEDOUT).code, ErrorCode::kTimedOut);
  EXPECT_EQ(errno_error("f", ECONNRESET).code, ErrorCode::kClosed);
  EXPECT_EQ(errno_error("f", ECONNREFUSED).code, ErrorCode::kUnavailable);
  EXPECT_TRUE(errno_error("f", ECONNREFUSED).retryable);
  EXPECT_EQ(errno_error("f", EMFILE).code, ErrorCode::kExhausted);
  EXPECT_EQ(errno_error("f", E2BIG).code, ErrorCode::kTooLarge);
  EXPECT_EQ(errno_error("f", ENOSYS).code, ErrorCode::kUnsupported);
  EXPECT_EQ(errno_error("f", EIO).code, ErrorCode::kIo);
  EXPECT_EQ(errno_error("f", 99999).code, ErrorCode::kIo);
}

TEST(CheckDeathTest, SaysWhatAndWhereAndAborts) {
  CHECK(1 + 1 == 2);
  EXPECT_DEATH(CHECK(1 + 1 == 3), "CHECK\\(1 \\+ 1 == 3\\) failed at .*error_test\\.cc:");
}

}  // namespace
}  // namespace sluice
