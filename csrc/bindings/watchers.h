// Who else follows what torch does.
#pragma once

namespace fastopt {

struct Watchers {
  // Somebody records torch's operations, among which a kernel's would be missing: a mode of torch's
  // dispatcher (make_fx's, fake tensors', one that counts), or torch.jit.trace.
  bool of_operations = false;
  bool of_functions = false;  // a mode that is asked for a tensor's attributes, too
};

// 0.1 us.
Watchers torch_watchers();

}  // namespace fastopt
