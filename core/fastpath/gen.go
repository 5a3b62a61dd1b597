package fastpath

//go:generate env C_INCLUDE_PATH=/usr/include/x86_64-linux-gnu:/usr/include/aarch64-linux-gnu go tool bpf2go -cc clang -cflags "-O2 -g -Wall -Werror" -target bpfel -type flow_key -type flow -type target -type target_stat -type service_key -type service -type vip -type mac -type overdraft -type client -type refusal -type source balance bpf/balance.c
//go:generate env C_INCLUDE_PATH=/usr/include/x86_64-linux-gnu:/usr/include/aarch64-linux-gnu go tool bpf2go -cc clang -cflags "-O2 -g -Wall -Werror" -target bpfel receive bpf/receive.c
//go:generate env C_INCLUDE_PATH=/usr/include/x86_64-linux-gnu:/usr/include/aarch64-linux-gnu go tool bpf2go -cc clang -cflags "-O2 -g -Wall -Werror" -target bpfel -output-suffix _test price testdata/price.c
