// What kstatus, the library of Flux and kpt, reads from objects: JSON objects in, verdicts one a line out.
package main

import (
	"encoding/json"
	"io"
	"log"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

type verdict struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

func main() {
	if err := judge(os.Stdin, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func judge(objects io.Reader, verdicts io.Writer) error {
	in, out := json.NewDecoder(objects), json.NewEncoder(verdicts)
	for {
		var raw json.RawMessage
		if err := in.Decode(&raw); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		// Its own decoder: kstatus compares generations as int64, which encoding/json does not make of numbers.
		var object unstructured.Unstructured
		if err := object.UnmarshalJSON(raw); err != nil {
			return err
		}
		result, err := status.Compute(&object)
		if err != nil {
			return err
		}
		if err := out.Encode(verdict{string(result.Status), result.Message}); err != nil {
			return err
		}
	}
}
