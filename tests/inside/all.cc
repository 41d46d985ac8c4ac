// The programs of this folder as one: `attacks NAME [ARGUMENT...]`, or by a link with its name.
#include <cstdio>
#include <cstring>

#include "attack.h"

namespace {

struct Program {
  const char* name;
  int (*run)(int, char**);
};

#define SLUICE_INSIDE_ENTRY(name) {#name, inside_##name},
constexpr Program kPrograms[] = {SLUICE_INSIDE_PROGRAMS(SLUICE_INSIDE_ENTRY)};
#undef SLUICE_INSIDE_ENTRY

const Program* find(const char* path) {
  const char* slash = std::strrchr(path, '/');
  const char* name = slash == nullptr ? path : slash + 1;
  for (const Program& program : kPrograms) {
    if (std::strcmp(program.name, name) == 0) return &program;
  }
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  if (const Program* program = argc > 0 ? find(argv[0]) : nullptr) return program->run(argc, argv);
  if (const Program* program = argc > 1 ? find(argv[1]) : nullptr) {
    return program->run(argc - 1, argv + 1);
  }
  std::puts("no such program");
  return 77;
}
