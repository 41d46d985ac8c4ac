// The sandbox helper as a program of its own: static, started by the engine with its end of a
// socket pair as descriptor 3.
#include <fcntl.h>
#include <unistd.h>

#include "sluice/sandbox/local/helper/helper.h"

int main() {
  ::fcntl(3, F_SETFD, FD_CLOEXEC);
  ::close_range(4, ~0u, 0);  // what the engine's process left open for its children
  sluice::sandbox::local::Helper helper((sluice::Fd(3)));
  return helper.run();
}
