# SPDX-License-Identifier: Apache-2.0
# What every script here begins with: the interface, and settings from the environment, since the
# tools of different years pass arguments differently.
source [file join [file dirname [file normalize [info script]]] interface.tcl]

# The environment variable `name`; `what` says what it is for where it is missing.
proc setting {name what} {
  if {![info exists ::env($name)] || $::env($name) eq ""} {
    error "$name must be set: $what (overlays/README.md)"
  }
  return $::env($name)
}

proc optional_setting {name default} {
  if {![info exists ::env($name)] || $::env($name) eq ""} {
    return $default
  }
  return $::env($name)
}
