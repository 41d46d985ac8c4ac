// Output: what a command prints. Whoever reads it may go first (`| tee` and Ctrl-C), and a disk may
// be full: no rollout ends for that, so nothing here throws. What stdout lost is told at the end.
//
// Any thread, but for what begins and ends the process.
#pragma once

#include <cstdio>
#include <string>
#include <string_view>

namespace sluice::cli {

void write(std::FILE* to, std::string_view text);
// To people, on stderr.
inline void say(std::string_view text) {
  write(stderr, text);
}
// What was asked for, on stdout.
inline void put(std::string_view text) {
  write(stdout, text);
}
// JSON text as a line of its own, at once.
void put_json(std::string json);

// Before anything is opened: a file that gets the number of a closed stdout gets what is printed.
void hold_standard_descriptors();
// The process's exit code: `code`, unless that is 0 and stdout could not be written. That nobody
// reads it any more is no error.
int finish_output(int code);

}  // namespace sluice::cli
