// An agent's work as one stream of bytes: out of the sandbox in which it was done, into one that is
// fresh, and there the way for files that were never in the first.
//
// Directories, files and symbolic links travel, with their permission bits, times and holes.
// Owners, set-user-id bits, names shared by hard links, pipes, sockets, devices and what is mounted
// do not. No link is followed, neither way. Both sides take what they find for hostile: the agent's
// files, and the stream that another sandbox's guest gave.
//
// `top` stands for the root directory. REQUIRES: nobody else works on the files meanwhile.
#pragma once

#include "sluice/base/core/passwd.h"
#include "sluice/base/core/result.h"
#include "sluice/guest/program/process.h"
#include "sluice/guest/wire/messages.h"

namespace sluice::guest::program {

Result<wire::WorkTaken> take_work(int top, const wire::TakeWork& request, int out, Users users);

// What is excluded stays as it is. Where it lies in a directory that the work has as a link or a
// file, the directory stays, too.
Result<void> put_work(int top, const wire::PutWork& request, int in, const User& owner,
                      Users users);

Result<void> make_way(int top, const wire::MakeWay& request, Users users);

}  // namespace sluice::guest::program
