// The file verbs, as they run in a process of their own that has already become the user.
//
// Nothing follows a symbolic link in a path's last component, and nothing that is no regular file
// is opened for its content. What a verb answers goes to its Channel.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/passwd.h"
#include "sluice/base/core/result.h"
#include "sluice/guest/program/process.h"
#include "sluice/guest/wire/messages.h"

namespace sluice::guest::program {

// The process of a verb: whom it is for, and its descriptors: bytes in and out (pipes), and what it
// has to say (one end of a socket pair, on which the guest says whether the input was complete).
struct VerbProcess {
  int in = -1, out = -1, control = -1;
  User user;
  Users users = Users::kMany;
};
// What goes over `control`: frames' payloads behind a type and a length.
struct VerbRecord {
  uint8_t type = 0;  // FrameType::kReply or kFail
  uint32_t size = 0;
};
inline constexpr char kInputComplete = 'C';
Result<void> send_record(int control, wire::FrameType type, ByteView payload);

// Carries the request out; returns its reply. None: it was sent already, ahead of the bytes.
using VerbReply = std::optional<Bytes>;
Result<VerbReply> carry_out(const wire::Read& request, const VerbProcess& process);
Result<VerbReply> carry_out(const wire::Write& request, const VerbProcess& process);
Result<VerbReply> carry_out(const wire::Stat& request, const VerbProcess& process);
Result<VerbReply> carry_out(const wire::List& request, const VerbProcess& process);
// As the guest's own user, for the process's.
Result<VerbReply> carry_out(const wire::ResetDirectory& request, const VerbProcess& process);
Result<VerbReply> carry_out(const wire::GiveTree& request, const VerbProcess& process);
Result<VerbReply> carry_out(const wire::HandOver& request, const VerbProcess& process);
// As the guest's own user (archive.h, work.h).
Result<VerbReply> carry_out(const wire::Pack& request, const VerbProcess& process);
Result<VerbReply> carry_out(const wire::Unpack& request, const VerbProcess& process);
Result<VerbReply> carry_out(const wire::TakeWork& request, const VerbProcess& process);
Result<VerbReply> carry_out(const wire::PutWork& request, const VerbProcess& process);
Result<VerbReply> carry_out(const wire::MakeWay& request, const VerbProcess& process);

}  // namespace sluice::guest::program
