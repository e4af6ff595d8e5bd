# SPDX-License-Identifier: Apache-2.0
# The IP to a bitstream: emamba.bit, emamba.hwh and reports in EMAMBA_OUT. Timing must be met.
#     vivado -mode batch -source build.tcl
set here [file dirname [file normalize [info script]]]
source [file join $here common.tcl]
source [file join $here bd.tcl]

set ip [file normalize [setting EMAMBA_IP "the folder of the IP that hls.tcl exported"]]
set out [file normalize [setting EMAMBA_OUT "the folder for project, reports and bitstream"]]
set jobs [optional_setting EMAMBA_JOBS 2]

# Fails where run `name` did not end well.
proc finish_run {name} {
  wait_on_run $name
  if {[get_property PROGRESS [get_runs $name]] ne "100%"} {
    error "$name must end at 100%, not [get_property PROGRESS [get_runs $name]]:\
      [get_property STATUS [get_runs $name]]; see runme.log below\
      [get_property DIRECTORY [get_runs $name]]"
  }
}

proc check_timing_is_met {} {
  set worst [list \
    WNS [get_timing_paths -max_paths 1 -nworst 1 -setup] \
    WHS [get_timing_paths -max_paths 1 -nworst 1 -hold]]
  foreach {name path} $worst {
    set slack_ns [get_property SLACK $path]
    if {$slack_ns < 0} {
      error "timing must be met, but $name is $slack_ns ns; see timing_summary.rpt, and fold\
        more or lower clock_hz in src/emamba/export/interface.py"
    }
  }
}

proc write_reports {out} {
  report_utilization -file $out/utilization.rpt
  report_utilization -hierarchical -file $out/utilization_hierarchical.rpt
  report_timing_summary -file $out/timing_summary.rpt
  report_power -file $out/power.rpt
}

file mkdir $out
create_project -force emamba $out/vivado -part [dict get $interface part]
set_property board_part [dict get $interface board_part] [current_project]
set_property ip_repo_paths $ip [current_project]
update_ip_catalog
make_design $interface

set design [get_files emamba.bd]
generate_target all $design
add_files -norecurse [make_wrapper -files $design -top]
set_property top emamba_wrapper [current_fileset]
add_files -fileset constrs_1 -norecurse $here/constraints.xdc
update_compile_order -fileset sources_1

launch_runs synth_1 -jobs $jobs
finish_run synth_1
launch_runs impl_1 -jobs $jobs
finish_run impl_1
open_run impl_1
write_reports $out
check_timing_is_met

write_bitstream -force $out/emamba.bit
set handoffs [glob $out/vivado/emamba.*/sources_1/bd/emamba/hw_handoff/emamba.hwh]
file copy -force [lindex $handoffs 0] $out/emamba.hwh
puts "wrote $out/emamba.bit and emamba.hwh, Vivado [version -short]"
