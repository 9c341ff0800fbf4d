// One target's dropout: see target.cpp.
#include "cpu/dropout_loop.h"
#include "cpu/kernel.h"

namespace fastopt {
namespace FASTOPT_TARGET {

extern const DropoutKernel dropouts[dtype_count];
const DropoutKernel dropouts[dtype_count] = {dropout<float>, dropout<double>, dropout<bfloat16>,
                                             dropout<float16>};
extern const DropoutKernel dropout_rows[dtype_count];
const DropoutKernel dropout_rows[dtype_count] = {rows<float>, rows<double>, rows<bfloat16>,
                                                 rows<float16>};
extern const DropoutKernel dropout_masks[mask_kind_count];
const DropoutKernel dropout_masks[mask_kind_count] = {mask_bits, mask_bytes};
extern const PhiloxBlock philox;
const PhiloxBlock philox = philox_block;

}  // namespace FASTOPT_TARGET
}  // namespace fastopt
