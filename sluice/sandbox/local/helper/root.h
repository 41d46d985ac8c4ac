// Root: builds the root filesystem of a sandbox out of mounts, from a plan, in its first process.
//
// Called in this order: take_common_sources, take_sources, make, build, enter. Whatever fails ends
// the process with a report. Everything is in a mount namespace of its own: nothing is cleaned up.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "sluice/base/core/fd.h"
#include "sluice/sandbox/local/helper/report.h"
#include "sluice/sandbox/local/plan.h"

namespace sluice::sandbox::local {

class Root {
 public:
  Root(const Setup& setup, Report report) : setup_(setup), report_(report) {}

  // What comes from the host is taken while this process still is the host's user, who may go
  // where the sandbox's may not, and before anything covers it. First what all sandboxes have.
  void take_common_sources() { take_all(setup_.root); }
  // REQUIRES of the rest: this process is the sandbox's first user.
  void take_sources(Create create, Fd image);
  void make();
  void build();
  void enter();

 private:
  // Where a step works: a name in a directory.
  struct Place {
    Fd directory;  // none: the working directory
    std::string name;
    bool good = true;
    int at() const;
    const char* c_str() const { return name.c_str(); }
  };

  bool has_image() const { return !create_.image_root.empty(); }
  void lay_over_image();
  Fd open_within(const char* path) const;
  Place place_of(const std::string& path) const;
  Fd clone_inside(const char* path) const;
  void take_all(const std::vector<Step>& steps);
  Fd take(const Step& step);
  int carry_out(const Step& step, const Fd& source);
  int make_directory(const Step& step, const Place& place);
  int bind(const Step& step, const Place& place, const Fd& source);

  const Setup& setup_;
  const Report report_;
  Create create_;
  Fd image_;
  std::vector<Fd> sources_;
  Fd home_, root_;
};

}  // namespace sluice::sandbox::local
