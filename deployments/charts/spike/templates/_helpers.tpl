{{/* The name in Kubernetes, as domain/kubernetes_names.py makes it. */}}
{{- define "spike.name" -}}
{{- $name := required "name is missing: give the application file, as in -f deployments/applications/NAME.yaml" .Values.name | replace "." "-" -}}
{{- if or (gt (len $name) 50) (not (regexMatch "^[a-z](?:[-a-z0-9]*[a-z0-9])?$" $name)) -}}
{{- fail (printf "'%s' cannot be a name in Kubernetes: at most 50 small letters, digits, - and ., beginning with a letter and ending with a letter or digit" .Values.name) -}}
{{- end -}}
{{- $name -}}
{{- end }}

{{/* What the application file says. */}}
{{- define "spike.application" -}}
{{- omit .Values "platform" "global" | toYaml -}}
{{- end }}

{{/* The version of what it says, as adapters/application_hash.py makes it. */}}
{{- define "spike.version" -}}
{{- omit .Values "platform" "global" | toRawJson | sha256sum | trunc 12 -}}
{{- end }}

{{/* The ConfigMap with the application file: another one for each version. */}}
{{- define "spike.file" -}}
{{ include "spike.name" . }}-{{ include "spike.version" . }}
{{- end }}

{{- define "spike.labels" -}}
app.kubernetes.io/name: spike
app.kubernetes.io/instance: {{ include "spike.name" . | quote }}
app.kubernetes.io/part-of: spike-pipelines
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
spike-pipelines.io/spike: {{ .Values.name | quote }}
{{- end }}

{{/* "true" where a pod stands on spot nodes. Takes the root and "driver" or "executor", as those below. */}}
{{- define "spike.onSpot" -}}
{{- $root := index . 0 }}{{ $role := index . 1 }}
{{- $own := $root.Values.spot | default dict }}
{{- if and $root.Values.platform.spot.enabled (ternary (get $own $role) (get $root.Values.platform.spot $role) (kindIs "bool" (get $own $role))) -}}
true
{{- end }}
{{- end }}

{{- define "spike.affinity" -}}
{{- $spot := (index . 0).Values.platform.spot }}
{{- if $spot.enabled }}
nodeAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    nodeSelectorTerms:
      - matchExpressions:
          - key: {{ $spot.label | quote }}
            operator: In
            values: [{{ ternary $spot.spotValue $spot.onDemandValue (eq (include "spike.onSpot" .) "true") | quote }}]
{{- end }}
{{- end }}

{{- define "spike.tolerations" -}}
{{- $root := index . 0 }}{{ $role := index . 1 }}
{{- if include "spike.onSpot" . }}
- key: {{ $root.Values.platform.spot.taint | quote }}
  operator: Exists
{{- end }}
{{- with (get $root.Values $role).tolerations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What driver and executor pods have in common: restricted, placed, and ended gently. */}}
{{- define "spike.pod" -}}
{{- $root := index . 0 }}{{ $role := index . 1 }}
{{- $part := get $root.Values $role }}
automountServiceAccountToken: {{ eq $role "driver" }}
terminationGracePeriodSeconds: {{ kindIs "invalid" $part.terminationGracePeriodSeconds | ternary 60 $part.terminationGracePeriodSeconds }}
{{- with $part.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 185
  runAsGroup: 185
  fsGroup: 185
  seccompProfile: { type: RuntimeDefault }
{{- with $part.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- $affinity := mergeOverwrite (include "spike.affinity" . | fromYaml) ($part.affinity | default dict) }}
{{- with $affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "spike.tolerations" . | trim }}
tolerations: {{- . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "spike.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  capabilities: { drop: [ALL] }
{{- with .Values.platform.s3CredentialsSecret }}
envFrom:
  - secretRef: { name: {{ . | quote }} }
{{- end }}
{{- end }}

{{/* What a process of ours is told; docs/deploying.md says where each comes from. */}}
{{- define "spike.environment" -}}
{{- with .Values.platform -}}
- { name: SPIKE_APPENDER_URL, value: {{ .appender.url | quote }} }
- { name: SPIKE_KAFKA_BOOTSTRAP, value: {{ .kafkaBootstrap | quote }} }
{{- with .s3Endpoint }}
- { name: SPIKE_S3_ENDPOINT, value: {{ . | quote }} }
{{- end }}
{{- with .eventLog }}
- { name: SPIKE_SPARK_EVENT_LOG, value: {{ . | quote }} }
{{- end }}
- { name: SPIKE_TOKEN_FILE, value: /var/run/secrets/spike/token }
- { name: SPIKE_STATE_DIR, value: /var/lib/spike }
{{- end }}
{{- end }}

{{- define "spike.token.volume" -}}
name: spike-token
projected:
  sources:
    - serviceAccountToken:
        audience: {{ .Values.platform.appender.audience | quote }}
        expirationSeconds: 3600
        path: token
{{- end }}
