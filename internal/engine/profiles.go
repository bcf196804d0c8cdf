package engine

// named are selectors by name alone.
func named(names ...string) []Selector {
	s := make([]Selector, len(names))
	for i, n := range names {
		s[i].Name = n
	}
	return s
}

// highest are selectors of the highest series.
func highest(names ...string) []Selector {
	s := named(names...)
	for i := range s {
		s[i].Fold = Max
	}
	return s
}

// labelled is a selector by name and one label.
func labelled(name, label, value string) Selector {
	return Selector{Name: name, Match: map[string]string{label: value}}
}

// openAI is where servers with OpenAI's API list their models.
const openAI, openAINames = "/v1/models", "/data/*/id"

// Profiles are the model servers. Where several could be recognized, the first
// is: those that wrap another come before it.
var Profiles = []Profile{
	{
		Name: "dynamo", Title: "NVIDIA Dynamo",
		Note:     "The frontend, which is where requests come in. Its workers are engines of their own and can be named as such.",
		Hints:    []string{"dynamo.frontend", "ai-dynamo", "dynamo-frontend"},
		Prefixes: []string{"dynamo_frontend_"},
		Ports:    []string{"http", "api", "frontend"},
		Metrics:  "/metrics", Health: "/health", Models: openAI, ModelNames: openAINames, ModelLabels: []string{"model"},
		From: map[Measure][]Selector{
			Waiting:  named("dynamo_frontend_queued_requests"),
			Running:  named("dynamo_frontend_inflight_requests", "dynamo_frontend_active_requests"),
			KVUsed:   highest("dynamo_component_kvstats_gpu_cache_usage_percent"),
			Finished: named("dynamo_frontend_requests_total"),
			TTFT:     named("dynamo_frontend_time_to_first_token_seconds"),
			ITL:      named("dynamo_frontend_inter_token_latency_seconds"),
			Latency:  named("dynamo_frontend_request_duration_seconds"),
		},
	},
	{
		Name: "sglang", Title: "SGLang",
		Note:     "Metrics need --enable-metrics, sleep needs --enable-memory-saver. It does not say whether it sleeps, so only a sleep through the agent is known as one.",
		Hints:    []string{"sglang"},
		Prefixes: []string{"sglang:", "sglang_"},
		Ports:    []string{"http", "api"},
		Metrics:  "/metrics", Health: "/health", Models: openAI, ModelNames: openAINames, ModelLabels: []string{"model_name"},
		Sleep: &Sleep{Enter: "/release_memory_occupation", Leave: "/resume_memory_occupation", Body: "{}"},
		From: map[Measure][]Selector{
			Waiting:     named("sglang:num_queue_reqs", "sglang_num_queue_reqs"),
			Running:     named("sglang:num_running_reqs", "sglang_num_running_reqs"),
			KVUsed:      highest("sglang:token_usage", "sglang_token_usage"),
			Preemptions: named("sglang:num_retracted_requests_total"),
			Finished:    named("sglang:num_requests_total"),
			TTFT:        named("sglang:time_to_first_token_seconds"),
			ITL:         named("sglang:inter_token_latency_seconds", "sglang:time_per_output_token_seconds"),
			QueueTime:   named("sglang:queue_time_seconds"),
			Latency:     named("sglang:e2e_request_latency_seconds"),
		},
	},
	{
		Name: "nim", Title: "NVIDIA NIM for LLMs",
		Note:     "Names without a prefix, so it is not recognized by its metrics: its image is, or meta names it.",
		Hints:    []string{"nvcr.io/nim/"},
		Prefixes: nil,
		Ports:    []string{"http", "api"},
		Metrics:  "/v1/metrics", Health: "/v1/health/ready", Models: openAI, ModelNames: openAINames, ModelLabels: []string{"model_name"},
		From: map[Measure][]Selector{
			Waiting:  named("num_requests_waiting", "vllm:num_requests_waiting"),
			Running:  named("num_requests_running", "vllm:num_requests_running"),
			Slots:    named("num_request_max"),
			KVUsed:   highest("gpu_cache_usage_perc", "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
			Finished: named("request_success_total", "vllm:request_success_total"),
			TTFT:     named("time_to_first_token_seconds", "vllm:time_to_first_token_seconds"),
			ITL:      named("time_per_output_token_seconds", "vllm:inter_token_latency_seconds"),
			Latency:  named("e2e_request_latency_seconds", "vllm:e2e_request_latency_seconds"),
		},
	},
	{
		Name: "vllm", Title: "vLLM",
		Note:     "Sleep needs --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1, whose endpoints ask nobody who they are: bind it to an address that only this host reaches. /health answers 200 while it sleeps, so metrics or /is_sleeping tell.",
		Hints:    []string{"vllm"},
		Prefixes: []string{"vllm:", "ray_vllm_", "vllm_"},
		Ports:    []string{"http", "api"},
		Metrics:  "/metrics", Health: "/health", Models: openAI, ModelNames: openAINames, ModelLabels: []string{"model_name"},
		Sleep: &Sleep{Enter: "/sleep?level=1", Leave: "/wake_up", State: "/is_sleeping", Pointer: "/is_sleeping"},
		From: map[Measure][]Selector{
			Waiting: named("vllm:num_requests_waiting", "ray_vllm_num_requests_waiting"),
			Running: named("vllm:num_requests_running", "ray_vllm_num_requests_running"),
			KVUsed: highest("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc",
				"ray_vllm_kv_cache_usage_perc", "ray_vllm_gpu_cache_usage_perc"),
			Awake: {
				{Name: "vllm:engine_sleep_state", Match: map[string]string{"sleep_state": "awake"}, Fold: Min},
				{Name: "ray_vllm_engine_sleep_state", Match: map[string]string{"sleep_state": "awake"}, Fold: Min},
			},
			Preemptions: named("vllm:num_preemptions_total", "ray_vllm_num_preemptions_total"),
			Finished:    named("vllm:request_success_total", "ray_vllm_request_success_total"),
			TTFT:        named("vllm:time_to_first_token_seconds", "ray_vllm_time_to_first_token_seconds"),
			ITL: named("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds",
				"ray_vllm_inter_token_latency_seconds", "ray_vllm_time_per_output_token_seconds"),
			QueueTime: named("vllm:request_queue_time_seconds", "ray_vllm_request_queue_time_seconds"),
			Latency:   named("vllm:e2e_request_latency_seconds", "ray_vllm_e2e_request_latency_seconds"),
		},
	},
	{
		Name: "trtllm", Title: "TensorRT-LLM (trtllm-serve)",
		Note:     "Metrics of the queue need iteration statistics (enable_iter_perf_stats); without them only the times are there.",
		Hints:    []string{"trtllm-serve"},
		Prefixes: []string{"trtllm_", "trtllm:"},
		Ports:    []string{"http", "api"},
		Metrics:  "/prometheus/metrics", Health: "/health", Models: openAI, ModelNames: openAINames, ModelLabels: []string{"model_name"},
		From: map[Measure][]Selector{
			Waiting:   named("trtllm_num_requests_waiting", "trtllm:num_requests_waiting"),
			Running:   named("trtllm_num_requests_running", "trtllm:num_requests_running"),
			KVUsed:    highest("trtllm_kv_cache_utilization", "trtllm:kv_cache_utilization"),
			Finished:  named("trtllm_request_success_total", "trtllm:request_success_total"),
			TTFT:      named("trtllm_time_to_first_token_seconds", "trtllm:time_to_first_token_seconds"),
			ITL:       named("trtllm_time_per_output_token_seconds", "trtllm:time_per_output_token_seconds"),
			QueueTime: named("trtllm_request_queue_time_seconds", "trtllm:request_queue_time_seconds"),
			Latency:   named("trtllm_e2e_request_latency_seconds", "trtllm:e2e_request_latency_seconds"),
		},
	},
	{
		Name: "triton", Title: "Triton Inference Server",
		Note:     "Metrics are on a port of their own, 8002 by default. With the TensorRT-LLM backend its own queue is taken; otherwise that of all models.",
		Hints:    []string{"tritonserver"},
		Prefixes: []string{"nv_inference_", "nv_trt_llm_"},
		Ports:    []string{"http", "api"}, MetricsPorts: []string{"metrics"},
		Metrics: "/metrics", Health: "/v2/health/ready", ModelLabels: []string{"model"},
		From: map[Measure][]Selector{
			Waiting: {
				labelled("nv_trt_llm_request_metrics", "request_type", "waiting"),
				{Name: "nv_inference_pending_request_count"},
			},
			Running: {labelled("nv_trt_llm_request_metrics", "request_type", "scheduled")},
			Slots:   {labelled("nv_trt_llm_request_metrics", "request_type", "max")},
			KVUsed: {{Name: "nv_trt_llm_kv_cache_block_metrics",
				Match: map[string]string{"kv_cache_block_type": "fraction"}, Fold: Max}},
			Finished: named("nv_inference_request_success"),
			TTFT:     {{Name: "nv_inference_first_response_histogram_ms", Scale: 1e-3}},
		},
	},
	{
		Name: "tgi", Title: "Text Generation Inference",
		Note:     "Archived by its makers in 2026. It does not tell how full its cache is.",
		Hints:    []string{"text-generation-inference", "text-generation-launcher"},
		Prefixes: []string{"tgi_"},
		Ports:    []string{"http", "api"},
		Metrics:  "/metrics", Health: "/health",
		From: map[Measure][]Selector{
			Waiting:   named("tgi_queue_size"),
			Running:   named("tgi_batch_current_size"),
			Finished:  named("tgi_request_success", "tgi_request_success_total"),
			ITL:       named("tgi_request_mean_time_per_token_duration"),
			QueueTime: named("tgi_request_queue_duration"),
			Latency:   named("tgi_request_duration"),
		},
	},
	{
		Name: "llamacpp", Title: "llama.cpp (llama-server)",
		Note:     "Metrics need --metrics. /health answers 503 while the model loads.",
		Hints:    []string{"llama-server", "llama.cpp"},
		Prefixes: []string{"llamacpp:"},
		Ports:    []string{"http", "api"},
		Metrics:  "/metrics", Health: "/health", Models: openAI, ModelNames: openAINames,
		From: map[Measure][]Selector{
			Waiting: named("llamacpp:requests_deferred"),
			Running: named("llamacpp:requests_processing"),
			KVUsed:  highest("llamacpp:kv_cache_usage_ratio"),
		},
	},
	{
		Name: "ollama", Title: "Ollama",
		Note:  "It tells which models are in memory (GET /api/ps), and nothing of its load: such an instance is never more than warm. It is ready when a model is loaded.",
		Hints: []string{"ollama"},
		Ports: []string{"http", "api"},
		JSON:  "/api/ps", Health: "/api/version", Models: "/api/ps", ModelNames: "/models/*/name",
	},
	{
		Name: "ray-serve", Title: "Ray Serve",
		Note:     "Metrics are on the port of Ray's metrics agent (--metrics-export-port). vLLM in Ray, as ray_vllm_*, is vLLM's profile.",
		Hints:    []string{"ray.serve", "serve run"},
		Prefixes: []string{"ray_serve_"},
		Ports:    []string{"http", "api", "serve"}, MetricsPorts: []string{"metrics"},
		Metrics: "/metrics", Health: "/-/healthz", ModelLabels: []string{"deployment"},
		From: map[Measure][]Selector{
			Waiting: named("ray_serve_deployment_queued_queries"),
			Running: named("ray_serve_num_ongoing_requests_at_replicas", "ray_serve_replica_processing_queries"),
			Finished: named("ray_serve_deployment_request_counter_total", "ray_serve_deployment_request_counter",
				"serve_deployment_request_counter"),
			Latency: {{Name: "ray_serve_deployment_processing_latency_ms", Scale: 1e-3}},
		},
	},
	{
		Name: "prometheus", Title: "Any server with Prometheus metrics",
		Note:  "Nothing is known of it but what meta says: gpupool.metric_waiting and its like name the metrics.",
		Ports: []string{"http", "api"}, MetricsPorts: []string{"metrics"},
		Metrics: "/metrics", Health: "/health",
	},
	{
		Name: "json", Title: "Any server with a JSON document",
		Note:  "Nothing is known of it but what meta says: gpupool.metric_waiting and its like are JSON pointers into the document at gpupool.metrics_path.",
		Ports: []string{"http", "api"}, MetricsPorts: []string{"metrics"},
		JSON: "/status", Health: "/health",
	},
}
