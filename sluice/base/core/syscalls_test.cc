#include "sluice/base/core/syscalls.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cerrno>

namespace sluice {
namespace {

TEST(SyscallsTest, DescriptorsGoWithTheirBytes) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  const Fd a(ends[0]);
  const Fd b(ends[1]);
  auto pipe = make_pipe();
  ASSERT_TRUE(pipe);
  const int both[] = {pipe->read.get(), pipe->write.get()};
  ASSERT_EQ(send_with_fds(a.get(), "plain", {}, 0), 5);
  ASSERT_EQ(send_with_fds(a.get(), "two", both, 0), 3);
  Bytes buffer(100, '\0');
  std::vector<Fd> fds;
  Bytes got;
  while (got.size() < 8) {
    const ssize_t n = receive_with_fds(b.get(), as_writable_byte_span(buffer), &fds, 0);
    ASSERT_GT(n, 0);
    got.append(buffer, 0, static_cast<size_t>(n));
  }
  EXPECT_EQ(got, "plaintwo");
  ASSERT_EQ(fds.size(), 2u);
  ASSERT_TRUE(write_all(fds[1].get(), "x"));
  EXPECT_EQ(::read(fds[0].get(), buffer.data(), 1), 1);
  EXPECT_EQ(::fcntl(fds[0].get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
}

TEST(SyscallsTest, WhatWasCutIsAnError) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  const Fd a(ends[0]);
  const Fd b(ends[1]);
  ASSERT_EQ(send_with_fds(a.get(), "four", {}, 0), 4);
  Bytes buffer(3, '\0');
  std::vector<Fd> fds;
  EXPECT_EQ(receive_with_fds(b.get(), as_writable_byte_span(buffer), &fds, 0), -1);
  EXPECT_EQ(errno, EMSGSIZE);
}

}  // namespace
}  // namespace sluice
