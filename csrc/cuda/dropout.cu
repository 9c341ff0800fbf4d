// Launches dropout.
#include "cuda/dropout.h"
#include "cuda/launchers.h"

namespace fastopt {
namespace FASTOPT_TARGET {
namespace {

template <class Kernel>
const char* launch_all(const CudaDropout& call, void* stream) {
  return launch<Kernel>(call, (call.size + eights_size - 1) / eights_size, stream);
}

using DropoutLauncher = const char* (*)(const CudaDropout& call, void* stream);

template <class T>
const char* launch_form(const CudaDropout& call, void* stream) {
  static constexpr DropoutLauncher forms[dropout_form_count] = {
      launch_all<DropoutElements<T, DropoutForm::plain>>,
      launch_all<DropoutElements<T, DropoutForm::relu>>,
      launch_all<DropoutElements<T, DropoutForm::bias>>,
      launch_all<DropoutElements<T, DropoutForm::residual>>,
      launch_all<DropoutElements<T, DropoutForm::bias_residual>>,
      launch_all<DropoutElements<T, DropoutForm::alpha>>};
  return forms[static_cast<int>(call.form)](call, stream);
}

}  // namespace

const char* run_dropout(const CudaDropout& call, DType dtype, const CudaPlace& place) {
  static constexpr DropoutLauncher launchers[dtype_count] = {
      launch_form<float>, launch_form<double>, launch_form<bfloat16>, launch_form<float16>};
  const OnDevice device(place.device);
  if (device.error() != nullptr) return device.error();
  return launchers[static_cast<int>(dtype)](call, place.stream);
}

const char* run_dropout_mask(const CudaDropout& call, MaskKind kind, const CudaPlace& place) {
  const OnDevice device(place.device);
  if (device.error() != nullptr) return device.error();
  return kind == MaskKind::bits ? launch_all<MaskOfBits>(call, place.stream)
                                : launch_all<MaskOfBytes>(call, place.stream);
}

}  // namespace FASTOPT_TARGET
}  // namespace fastopt
