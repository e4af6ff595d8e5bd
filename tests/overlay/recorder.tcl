# SPDX-License-Identifier: Apache-2.0
# Stands in for Vivado or Vitis HLS: prints every call, answers as far as our scripts ask, and
# refuses commands, flags, argument counts, cells and pins that it does not know. The test sets
# before: `commands` and `pins` (commands.json), `slack_ns` and `progress`, the outcome to play.
fconfigure stdout -buffering line
set cells [dict create]

proc check_call {name arguments} {
  set spec [dict get $::commands $name]
  set count 0
  for {set i 0} {$i < [llength $arguments]} {incr i} {
    set argument [lindex $arguments $i]
    if {![string match {-[a-z]*} $argument]} {
      incr count
    } elseif {![dict exists $spec switches $argument]} {
      error "$name must have flags of its own, not $argument"
    } elseif {[dict get $spec switches $argument]} {
      incr i
      if {$i == [llength $arguments]} {
        error "$name: $argument must have a value"
      }
    }
  }
  lassign [dict get $spec positionals] least most
  if {$count < $least || $count > $most} {
    error "$name must have $least to $most arguments besides flags, not $count"
  }
}

# The value of `flag`, or its default.
proc flag {arguments flag default} {
  set at [lsearch -exact $arguments $flag]
  return [expr {$at < 0 ? $default : [lindex $arguments $at+1]}]
}

proc check_pins {names} {
  foreach name $names {
    lassign [split $name /] cell pin
    if {![dict exists $::cells $cell]} {
      error "a cell must be made before its pins are used, but $cell is not"
    }
    set ip [dict get $::cells $cell]
    if {$pin ni [dict get $::pins $ip]} {
      error "$ip must have the pin that is asked for, but has no $pin"
    }
  }
}

proc touch {path text} {
  file mkdir [file dirname $path]
  set file [open $path w]
  puts $file $text
  close $file
}

proc property {name object} {
  switch $name {
    PROGRESS { return $::progress }
    STATUS { return "route_design Complete" }
    SLACK { return $::slack_ns }
    DIRECTORY { return "/runs/$object" }
  }
  error "no run has the property $name"
}

proc answer {name arguments} {
  set last [lindex $arguments end]
  switch -glob $name {
    create_project { set ::project [lindex $arguments 2] }
    get_ipdefs {
      regexp {xilinx.com:ip:(\w+):} [flag $arguments -filter ""] -> ip
      return xilinx.com:ip:$ip:1.0
    }
    create_bd_cell {
      dict set ::cells $last [lindex [split [flag $arguments -vlnv ""] :] 2]
      return $last
    }
    get_bd_pins - get_bd_intf_pins { check_pins $last; return $last }
    get_bd_addr_segs { return [flag $arguments -of_objects $last] }
    get_property { return [property {*}$arguments] }
    get_timing_paths { return path }
    make_wrapper { return /project/emamba_wrapper.v }
    generate_target { touch $::project/emamba.gen/sources_1/bd/emamba/hw_handoff/emamba.hwh hwh }
    report_* { touch [flag $arguments -file ""] $name }
    write_bitstream { touch $last bit }
    version { return 2024.1 }
    get_* { return $last }
    current_* { return $name }
  }
  return ""
}

proc call {name args} {
  check_call $name $args
  puts "CALL\t$name\t[join [lmap argument $args {regsub -all {\s+} $argument { }}] \t]"
  return [answer $name $args]
}

proc unknown {name args} {
  error "no tool knows the command $name"
}

foreach name [dict keys $commands] {
  interp alias {} $name {} call $name
}
