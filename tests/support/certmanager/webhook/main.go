// cert-manager's webhook, on loopback only: it writes into CertificateRequests who made them.
//
// What it is made of is internal to cert-manager: hence the name of this module, which is below cert-manager's.
package main

import (
	"context"
	"crypto/tls"
	"flag"
	"log"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	metrics "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	certmanager "github.com/cert-manager/cert-manager/internal/webhook"
	"github.com/cert-manager/cert-manager/pkg/logs"
	"github.com/cert-manager/cert-manager/pkg/webhook/admission"
	"github.com/cert-manager/cert-manager/pkg/webhook/options"
)

func main() {
	// controller-runtime has a --kubeconfig of its own among the flags of the process.
	flags := flag.NewFlagSet(os.Args[0], flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "file")
	port := flags.Int("port", 0, "on loopback")
	secret := flags.String("secret", "", "of namespace cert-manager, made by it: its authority")
	if err := flags.Parse(os.Args[1:]); err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, *kubeconfig, *port, *secret); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, kubeconfig string, port int, secret string) error {
	config, err := options.NewWebhookConfiguration()
	if err != nil {
		return err
	}
	config.KubeConfig = kubeconfig
	config.TLSConfig.Dynamic.SecretNamespace = "cert-manager"
	config.TLSConfig.Dynamic.SecretName = secret
	config.TLSConfig.Dynamic.DNSNames = []string{"localhost"}
	made, err := certmanager.NewCertManagerWebhookServer(logs.Log, *config)
	if err != nil {
		return err
	}
	// made.Run listens on every address of the machine.
	server := webhook.NewServer(webhook.Options{
		Host:    "127.0.0.1",
		Port:    port,
		TLSOpts: []func(*tls.Config){func(tls *tls.Config) { tls.GetCertificate = made.CertificateSource.GetCertificate }},
	})
	manager, err := ctrl.NewManager(&rest.Config{}, ctrl.Options{
		Scheme:        made.ResourceScheme,
		Logger:        logs.Log,
		Metrics:       metrics.Options{BindAddress: "0"},
		WebhookServer: server,
	})
	if err != nil {
		return err
	}
	if err := manager.Add(made.CertificateSource); err != nil {
		return err
	}
	// Only one that is asked for is started.
	server = manager.GetWebhookServer()
	server.Register("/mutate", admission.NewCustomMutationWebhook(made.MutationWebhook))
	server.Register("/validate", admission.NewCustomValidationWebhook(manager.GetScheme(), made.ValidationWebhook))
	return manager.Start(ctx)
}
