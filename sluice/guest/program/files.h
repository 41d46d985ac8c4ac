// The file verbs, as they run in a process of their own that has already become the user.
//
// Nothing follows a symbolic link in a path's last component, and nothing that is no regular file
// is opened for its content. What a verb answers goes to its Channel.
#pragma once

#include <cstdint>
#include <string>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/passwd.h"
#include "sluice/base/core/result.h"
#include "sluice/guest/program/process.h"
#include "sluice/guest/wire/messages.h"

namespace sluice::guest::program {

// A verb's descriptors: bytes in and out (pipes), and what it has to say (one end of a socket
// pair, on which the guest says whether the input was complete).
struct VerbPipes {
  int in = -1, out = -1, control = -1;
};
// What goes over `control`: frames' payloads behind a type and a length.
struct VerbRecord {
  uint8_t type = 0;  // FrameType::kReply or kFail
  uint32_t size = 0;
};
inline constexpr char kInputComplete = 'C';

Result<void> read_verb(const wire::Read& request, const VerbPipes& pipes);
Result<void> write_verb(const wire::Write& request, const VerbPipes& pipes);
Result<wire::FileStat> stat_verb(const wire::Stat& request);
Result<void> list_verb(const wire::List& request, const VerbPipes& pipes);
// As the guest's own user, for `owner`.
Result<void> reset_directory_verb(const wire::ResetDirectory& request, const User& owner,
                                  Users users);
Result<uint64_t> give_tree_verb(const wire::GiveTree& request, const User& owner, Users users);

Result<void> send_record(int control, wire::FrameType type, ByteView payload);

}  // namespace sluice::guest::program
