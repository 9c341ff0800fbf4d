// Who else follows what torch does.
#pragma once

namespace fastopt {

// Whether somebody records torch's operations, among which a kernel's would be missing: a mode of
// torch's dispatcher (make_fx's, fake tensors', one that counts), or torch.jit.trace. 0.1 us.
bool torch_is_watched();

}  // namespace fastopt
