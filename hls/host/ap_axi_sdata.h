// SPDX-License-Identifier: Apache-2.0
// A transfer of an AXI4-Stream without user, id and destination, for the host. Stands where a
// hardware compiler has its own header of this name.
#pragma once

#include "emamba/types.hpp"

template <int D, int U, int TI, int TD>
struct ap_axiu {
  static_assert(U == 0 && TI == 0 && TD == 0, "user, id and destination must have no bits");
  emamba::unsigned_t<D> data;
  emamba::unsigned_t<D / 8> keep;
  emamba::unsigned_t<D / 8> strb;
  emamba::unsigned_t<1> last;
};
