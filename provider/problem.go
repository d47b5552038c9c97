package provider

import "github.com/tokenbroker/tokenbroker/internal/yamldoc"

// A Problem is one thing wrong with a definition, with its place in the file.
type Problem = yamldoc.Problem

func sortProblems(ps []Problem) { yamldoc.Sort(ps) }
