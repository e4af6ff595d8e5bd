# SPDX-License-Identifier: Apache-2.0
# One kernel's sources to an IP: C simulation against the golden vectors, synthesis, export; with
# EMAMBA_COSIM=1 also C/RTL co-simulation.
#     vitis_hls -f hls.tcl                    2022.1 to 2024.1
#     vitis-run --mode hls --tcl hls.tcl      2023.2 and later
source [file join [file dirname [file normalize [info script]]] common.tcl]

set export [file normalize [setting EMAMBA_EXPORT "what `emamba export hls` wrote"]]
set kernels [file normalize [setting EMAMBA_KERNELS "the folder hls/ of the sources"]]
set out [file normalize [setting EMAMBA_OUT "the folder for project, reports and IP"]]

set kernel [dict get $interface kernel]
set cflags "-std=c++14 -I$export -I$kernels/include"

file mkdir $out
cd $out
open_project -reset kernel
set_top [dict get $kernel name]
add_files $export/ip.cpp -cflags $cflags
add_files $export/top.cpp -cflags $cflags
add_files -tb $kernels/test/testbench.cpp -cflags "$cflags -DEMAMBA_IP"

open_solution -reset solution -flow_target vivado
set_part [dict get $interface part]
create_clock -period [expr {1e9 / [dict get $interface clock_hz]}] -name default

csim_design -argv $export
csynth_design
if {[optional_setting EMAMBA_COSIM 0]} {
  cosim_design -argv $export
}
export_design -format ip_catalog \
  -vendor [dict get $kernel vendor] \
  -library [dict get $kernel library] \
  -ipname [dict get $kernel name] \
  -version [dict get $kernel version]
close_project
exit
