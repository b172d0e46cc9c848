// What a health script says of objects, in the interpreter and with the libraries that Argo CD gives it: JSON objects in, answers one a line out.
package main

import (
	"encoding/json"
	"io"
	"log"
	"os"

	lua "github.com/yuin/gopher-lua"
)

type health struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

func main() {
	script, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	if err := judge(string(script), os.Stdin, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func judge(script string, objects io.Reader, answers io.Writer) error {
	in, out := json.NewDecoder(objects), json.NewEncoder(answers)
	for {
		var object map[string]any
		if err := in.Decode(&object); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		answer, err := ask(script, object)
		if err != nil {
			return err
		}
		if err := out.Encode(answer); err != nil {
			return err
		}
	}
}

func ask(script string, object map[string]any) (health, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	libraries := map[string]lua.LGFunction{
		lua.LoadLibName: lua.OpenPackage,
		lua.BaseLibName: lua.OpenBase,
		lua.TabLibName:  lua.OpenTable,
	}
	for name, open := range libraries {
		if err := state.CallByParam(lua.P{Fn: state.NewFunction(open), Protect: true}, lua.LString(name)); err != nil {
			return health{}, err
		}
	}
	state.SetGlobal("obj", value(state, object))
	if err := state.DoString(script); err != nil {
		return health{}, err
	}
	answer := state.Get(-1).(*lua.LTable)
	field := func(name string) string { return lua.LVAsString(answer.RawGetString(name)) }
	return health{Status: field("status"), Message: field("message")}, nil
}

func value(state *lua.LState, of any) lua.LValue {
	switch of := of.(type) {
	case bool:
		return lua.LBool(of)
	case float64:
		return lua.LNumber(of)
	case string:
		return lua.LString(of)
	case []any:
		table := state.NewTable()
		for _, each := range of {
			table.Append(value(state, each))
		}
		return table
	case map[string]any:
		table := state.NewTable()
		for name, each := range of {
			table.RawSetString(name, value(state, each))
		}
		return table
	}
	return lua.LNil
}
